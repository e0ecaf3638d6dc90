"""The module's parameters, its mask of pictures, and where pictures are put."""

import re
from collections import Counter
from functools import cache

import pytest

from memplan import TrainingPlan
from memplan.formulas.setting import Batch
from memplan.formulas.tape import Tape
from memplan.formulas.weights import Storing
from memplan.models import find_model
from memplan.models.batch import batch_of
from memplan.models.catalogue import read_preset

torch = pytest.importorskip("torch", reason="modules need torch")
pytest.importorskip("transformers", reason="their towers are transformers'")

from memplan.models.mmicl import module  # noqa: E402
from memplan.runner.training.model import set_ties  # noqa: E402

RELEASED = ("mmicl-flan-t5-xl", "mmicl-flan-t5-xxl")
PRESETS = ("mmicl-tiny", *RELEASED)
INDEX = re.compile(r"\.(\d+|\*)(?=\.)")
# Counted on the released code (model/utils.py, get_model), XL and XXL.
STAGES = {
    "stage-1": (187_258_880, 188_833_792),
    "stage-2-released-code": (202_901_504, 808_456_192),
    "stage-2-qv": (404_228_096, 1_613_762_560),
    "stage-2-cross-qv": (605_554_688, 2_419_068_928),
}


# Parts of XL and XXL, as the classes of transformers have them.
PARTS = {
    "vision_model": (985_952_256, 985_952_256),
    "query_tokens": (24_576, 24_576),
    "qformer": (185_659_392, 185_659_392),
    "language_projection": (1_574_912, 3_149_824),
    "language_model": (2_849_757_184, 11_135_332_352),
}


@cache
def shapes(name):
    """The parameters of a preset's module, built without memory."""
    with torch.device("meta"):
        built = module.build(find_model(name).config, torch.bfloat16, None)
    return {name: p.shape for name, p in built.named_parameters()}


def count(name, *patterns):
    """Of all parameters that one of some patterns finds."""
    return sum(
        shape.numel()
        for path, shape in shapes(name).items()
        if any(re.search(pattern, path) for pattern in patterns)
    )


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_its_published_parameters(name):
    assert count(name, "") == read_preset(name)["parameters"]["total"]


@pytest.mark.parametrize("name", PRESETS)
def test_the_closed_form_names_every_parameter(name):
    model = find_model(name)
    policy = Storing(dtype="bf16", trainable=("",), frozen_dtype="bf16")
    tape = Tape(policy=policy)
    plan = TrainingPlan(model=name, torch="2.14")
    model.family.forward(tape, model.config, batch_of(plan, model))
    counted = Counter()
    for parameter in tape.parameters.values():
        counted[INDEX.sub("", parameter.name), parameter.shape] += parameter.count
    assert counted == Counter(
        (INDEX.sub("", path), tuple(shape)) for path, shape in shapes(name).items()
    )


@pytest.mark.parametrize("part", PARTS)
def test_its_parts_are_those_of_the_released_checkpoints(part):
    assert tuple(count(name, f"^{part}") for name in RELEASED) == PARTS[part]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_trains_the_parameters_that_were_counted(stage):
    found = (count(name, *find_model(name).trainable_sets[stage]) for name in RELEASED)
    assert tuple(found) == STAGES[stage]


def test_the_head_is_no_copy_of_the_table_and_stays_so(new_model):
    built = new_model()
    language = built.language_model
    head = language.lm_head.weight
    set_ties(find_model("mmicl-tiny"), built)
    assert language.lm_head.weight is head
    assert head is not language.shared.weight
    assert language.encoder.embed_tokens.weight is language.shared.weight


def test_the_head_reads_an_output_that_is_not_scaled(new_model):
    assert not new_model().language_model.config.scale_decoder_outputs


@pytest.fixture
def model(new_model):
    return new_model().eval()


@pytest.fixture
def batch(config, prompts):
    """Two samples of two pictures, the second one's padded by a third place."""
    torch.manual_seed(1)
    sizes = Batch(
        size=2, seq_len=40, target_seq_len=5, images_per_sample=2, image_size=56
    )
    made = module.make_batch(config, sizes, torch.float32)
    places = config.num_query_tokens
    made["input_ids"] = torch.randint(3, 250, (2, 40))
    made["input_ids"][:, 4 : 4 + places] = prompts.placeholder_id
    made["input_ids"][:, 20 : 20 + places] = prompts.placeholder_id
    made["labels"] = torch.randint(3, 250, (2, 5))
    return made


@torch.no_grad()
def test_pictures_overwrite_placeholders_in_their_order(model, batch, config):
    seen = {}
    encoder = model.language_model.encoder
    encoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    model(**batch)
    found = seen["inputs_embeds"]
    pictures = batch["pixel_values"].flatten(0, 1)
    features = model.get_image_features(pictures).pooler_output
    words = model.get_input_embeddings()(batch["input_ids"])
    places = config.num_query_tokens
    expected = words.clone()
    for index, feature in enumerate(features):
        sample, first = index // 2, (4, 20)[index % 2]
        expected[sample, first : first + places] = feature
    torch.testing.assert_close(found, expected)


def counting(model):
    """How many pictures pass the vision tower and the Q-Former."""
    passed = []
    model.vision_model.register_forward_pre_hook(
        lambda module, args, kwargs: passed.append(len(kwargs["pixel_values"])),
        with_kwargs=True,
    )
    model.qformer.register_forward_pre_hook(
        lambda module, args, kwargs: passed.append(len(kwargs["query_embeds"])),
        with_kwargs=True,
    )
    return passed


@torch.no_grad()
def test_only_pictures_that_are_there_pass_the_towers(model, batch):
    expected = model(**batch).loss
    passed = counting(model)
    pictures = batch["pixel_values"]
    noise = torch.full_like(pictures[:, :1], torch.nan)
    batch["pixel_values"] = torch.cat([pictures, noise], dim=1)
    batch["img_mask"] = torch.tensor([[1, 1, 0], [1, 1, 0]])
    torch.testing.assert_close(model(**batch).loss, expected)
    assert passed == [4, 4]


@torch.no_grad()
def test_a_sample_is_the_same_alone_and_beside_one_of_more_pictures(model, batch):
    ids = batch["input_ids"].clone()
    ids[1, 20:28] = 5  # the second sample has but one picture
    batch |= {"input_ids": ids, "img_mask": torch.tensor([[1, 1], [1, 0]])}
    together = model(**batch).logits[1]
    alone = {name: tensor[1:] for name, tensor in batch.items()}
    alone["pixel_values"] = alone["pixel_values"][:, :1]
    del alone["img_mask"]
    torch.testing.assert_close(model(**alone).logits[0], together)


@torch.no_grad()
def test_the_q_former_reads_no_instruction(model, batch):
    """Its word embeddings could be anything."""
    expected = model(**batch).loss
    model.qformer.embeddings.word_embeddings.weight.fill_(torch.nan)
    for layer in model.qformer.encoder.layer:
        layer.intermediate.dense.weight.fill_(torch.nan)
    assert torch.equal(model(**batch).loss, expected)


@torch.no_grad()
def test_padding_of_a_prompt_is_not_read(model, batch):
    expected = model(**batch).logits
    padding = torch.full((2, 7), 0)
    mask = torch.cat([batch["attention_mask"], padding], dim=1)
    batch["input_ids"] = torch.cat([batch["input_ids"], padding], dim=1)
    found = model(**batch | {"attention_mask": mask}).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_labels_that_are_ignored_give_no_loss(model, batch):
    batch["labels"][0] = -100
    kept = {name: tensor[1:] for name, tensor in batch.items()}
    torch.testing.assert_close(model(**batch).loss, model(**kept).loss)


def test_generation_goes_on_from_the_start_token(model, batch):
    del batch["labels"]
    with torch.no_grad():
        first = model(**batch, decoder_input_ids=torch.zeros(2, 1, dtype=torch.int64))
    answers = model.generate(**batch, max_new_tokens=3, min_new_tokens=3)
    assert answers.shape == (2, 4)
    assert torch.equal(answers[:, 0], torch.zeros(2, dtype=torch.int64))
    allowed = first.logits[:, 0].clone()
    allowed[:, 1] = -torch.inf  # the end, which may not come yet
    assert torch.equal(answers[:, 1], allowed.argmax(dim=1))
