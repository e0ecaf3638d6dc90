"""Flamingo as a module: gates, masks, frames, counts; to the bit where it must be."""

import math
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from memplan.formulas.parameters import Stored
from memplan.formulas.setting import Batch
from memplan.formulas.tape import Tape
from memplan.models import find_model
from memplan.models.catalogue import read_preset

torch = pytest.importorskip("torch", reason="modules need torch")
pytest.importorskip("transformers", reason="their towers are transformers'")

from memplan.models.flamingo import module as flamingo  # noqa: E402
from memplan.models.flamingo.chinchilla import Chinchilla, RelativeAttention  # noqa: E402
from memplan.models.flamingo.config import LanguageConfig  # noqa: E402
from memplan.models.flamingo.towers import language_model  # noqa: E402

TINY = ["openflamingo-tiny", "flamingo-tiny"]
PUBLISHED = [
    "flamingo-3b",
    "flamingo-9b",
    "flamingo-80b",
    "openflamingo-3b",
    "openflamingo-4b",
    "openflamingo-9b",
]
LANGUAGE = LanguageConfig(
    model_type="chinchilla",
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    vocab_size=50,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def tiny(name, dtype=torch.float32):
    config = find_model(name).config
    return config, flamingo.build(config, dtype, None).eval()


def batch(config, **sizes):
    sizes = {"size": 2, "seq_len": 12, "images_per_sample": 2} | sizes
    return flamingo.make_batch(
        config, Batch(image_size=config.image_size, **sizes), torch.float32
    )


def open_gates(model):
    for layer in model.layers:
        block = layer.gated_cross_attn_layer
        if block is not None:
            torch.nn.init.constant_(block.attn_gate, 1.0)
            torch.nn.init.constant_(block.ff_gate, 1.0)


# The paper's language model


@torch.no_grad()
def test_a_chinchilla_sees_nothing_ahead():
    model = Chinchilla(LANGUAGE)
    ids = torch.randint(0, 50, (1, 8))
    other = ids.clone()
    other[0, 5] = (ids[0, 5] + 1) % 50
    first, second = model(ids).logits, model(other).logits
    assert torch.equal(first[0, :5], second[0, :5])
    assert not torch.allclose(first[0, 5:], second[0, 5:], atol=1e-6)


@torch.no_grad()
def test_relative_scores_are_those_of_each_distance():
    attention = RelativeAttention(LANGUAGE)
    L, H, K = 5, 2, 8
    x, positions = torch.randn(1, L, 16), torch.randn(1, L, 16)
    places = torch.arange(L)
    found = attention(x, positions, places[:, None] - places)

    def heads(layer, tensor):
        return layer(tensor).view(L, H, K)

    query, key = heads(attention.query, x), heads(attention.key, x)
    value, far = heads(attention.value, x), heads(attention.relative, positions)
    expected = torch.zeros(L, H, K)
    for i in range(L):
        for h in range(H):
            scores = torch.stack(
                [query[i, h] @ (key[j, h] + far[i - j, h]) for j in range(i + 1)]
            )
            weights = (scores * K**-0.5).softmax(0)
            expected[i, h] = sum(weights[j] * value[j, h] for j in range(i + 1))
    expected = attention.output(expected.view(1, L, H * K))
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_end_of_a_chunk_has_an_embedding_that_learns():
    model = Chinchilla(LANGUAGE)
    model.embed.requires_grad_(False)
    ids = torch.tensor([[3, model.eoc_token_id, 4]])
    output = model(ids, labels=ids)
    output.loss.backward()
    assert model.eoc_embedding.grad.abs().sum() > 0
    # It is read in the place of its id, and predicted there.
    model.embed.weight.data[model.eoc_token_id] += 1.0
    assert torch.equal(model(ids).logits, output.logits)


# Gates


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-mixed"])
@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_shut_gates_leave_the_frozen_language_model_to_the_bit(name, precision):
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    config, model = tiny(name, dtype)
    with flamingo.default_dtype(dtype):
        alone = language_model(config.text_config, None).eval()
    weights = {
        key.replace(".decoder_layer.", "."): value
        for key, value in model.lang_encoder.state_dict().items()
        if "gated_cross_attn_layer" not in key
    }
    alone.load_state_dict(weights)
    if precision == "bf16-mixed" and config.is_paper:
        # Its frozen parts are stored in bf16 (section 4.1.4).
        model.lang_encoder.to(torch.bfloat16)
        alone.to(torch.bfloat16)
        for layer in model.layers:
            if layer.gated_cross_attn_layer is not None:
                layer.gated_cross_attn_layer.float()
    tensors = batch(config)
    ids, pictures = tensors["input_ids"], tensors["vision_x"].to(dtype)
    mask = tensors["attention_mask"]
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        expected = alone(input_ids=ids, attention_mask=mask).logits
        found = model(ids, pictures, attention_mask=mask).logits
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", TINY)
def test_gates_start_at_nought_and_feel_a_gradient(name):
    config, model = tiny(name)
    model(**batch(config)).loss.backward()
    gates = {n: p for n, p in model.named_parameters() if n.endswith("_gate")}
    assert len(gates) == 2 * config.num_blocks
    for gate in gates.values():
        assert not gate.any()
        assert gate.grad.any()


# Which picture a token sees


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_a_token_sees_the_last_picture_before_it_alone_to_the_bit(name):
    config, model = tiny(name)
    layer = next(m for m in model.layers if m.gated_cross_attn_layer is not None)
    attend = layer.gated_cross_attn_layer.attn
    x = torch.randn(1, 12, config.text_config.hidden_size)
    media = torch.randn(1, 3 * 64, config.visual_size)
    indices = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3]])
    before = attend(x, media, indices)
    # No picture, and nothing: not even what a bias could add.
    assert torch.equal(before[0, :2], torch.zeros_like(before[0, :2]))
    for picture in (1, 2, 3):
        changed = media.clone()
        changed[:, 64 * (picture - 1) : 64 * picture] += 1.0
        after = attend(x, changed, indices)
        for place, index in enumerate(indices[0].tolist()):
            same = torch.equal(before[0, place], after[0, place])
            assert same == (index != picture), (place, picture)


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_text_before_a_picture_knows_nothing_of_it_to_the_bit(name):
    config, model = tiny(name)
    open_gates(model)
    input_ids = torch.randint(0, 100, (1, 12))
    input_ids[0, [2, 7]] = model.media_token_id
    vision_x = torch.randn(1, 2, 1, 3, config.image_size, config.image_size)
    changed = vision_x.clone()
    changed[0, 1] += 1.0
    first, second = (model(input_ids, x).logits for x in (vision_x, changed))
    assert torch.equal(first[0, :7], second[0, :7])
    assert not torch.allclose(first[0, 7:], second[0, 7:], atol=1e-5)
    # Nothing before the first picture sees any; later text hears of it through the
    # language model.
    changed[0, 0] += 1.0
    third = model(input_ids, changed).logits
    assert torch.equal(first[0, :2], third[0, :2])
    assert not torch.allclose(first[0, 2:7], third[0, 2:7], atol=1e-5)


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_indices_may_say_what_the_tokens_do_not(name):
    config, model = tiny(name)
    open_gates(model)
    tensors = batch(config, images_per_sample=3)
    ids, pictures = tensors["input_ids"], tensors["vision_x"]
    counted = (ids == model.media_token_id).cumsum(dim=1)
    same = model(ids, pictures, image_indices=counted).logits
    assert torch.equal(model(ids, pictures).logits, same)
    following = counted.clamp(max=2) + 1
    assert not torch.allclose(
        model(ids, pictures, image_indices=following).logits, same, atol=1e-4
    )


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_a_text_without_pictures_is_that_of_unseen_ones(name):
    config, model = tiny(name)
    open_gates(model)
    ids = torch.randint(0, 100, (2, 9))
    pictures = torch.randn(2, 1, 1, 3, config.image_size, config.image_size)
    assert torch.equal(model(ids).logits, model(ids, pictures).logits)


# Frames


@torch.no_grad()
def test_a_video_has_the_visual_tokens_of_one_picture():
    config, model = tiny("flamingo-tiny")
    size = config.image_size
    ids = torch.tensor([[5, model.media_token_id, 6]])
    video = torch.randn(1, 1, 8, 3, size, size)
    assert model.encode_vision(video, ids).shape == (1, 64, config.visual_size)
    # Frames have times: their order matters.
    open_gates(model)
    forward, backward = (model(ids, x).logits for x in (video, video.flip(2)))
    assert not torch.allclose(forward, backward, atol=1e-5)


@torch.no_grad()
def test_times_of_more_frames_lie_between_the_learnt_ones():
    _, model = tiny("flamingo-tiny")
    resampler = model.perceiver
    learnt = resampler.time_embeddings
    assert torch.equal(resampler.times(1, 4), learnt[:1])
    assert torch.equal(resampler.times(3, 1), learnt[:3])
    assert torch.equal(resampler.times(8, 2), learnt.repeat_interleave(2, dim=0))
    # 30 frames at 3 a second, over the 8 at 1 a second of training.
    times = resampler.times(30, 1)
    assert torch.allclose(times[[0, -1]], learnt[[0, -1]], atol=1e-6)
    place = 10 * 7 / 29
    low = int(place)
    expected = torch.lerp(learnt[low], learnt[low + 1], place - low)
    assert torch.allclose(times[10], expected, atol=1e-5)


@torch.no_grad()
def test_every_feature_gets_the_time_of_its_frame():
    _, model = tiny("flamingo-tiny")
    resampler = model.perceiver
    resampler.projection = torch.nn.Identity()
    times = resampler.time_embeddings
    frames = torch.randn(1, 1, 2, 3, 128)
    timed = torch.cat([frames[:, :, f] + times[f] for f in (0, 1)], dim=2)
    # As one frame, which gets the first time, whatever it is.
    assert torch.allclose(
        resampler(frames), resampler((timed - times[0])[:, :, None]), atol=1e-5
    )


def test_openflamingo_takes_no_videos():
    config, model = tiny("openflamingo-tiny")
    video = torch.randn(1, 1, 2, 3, config.image_size, config.image_size)
    with pytest.raises(ValueError, match="not videos of 2 frames"):
        model(torch.zeros(1, 4, dtype=torch.int64), video)


# Layout


@pytest.mark.parametrize(
    ("name", "places"),
    [("openflamingo-tiny", [False, True] * 2), ("flamingo-tiny", [True, False] * 2)],
)
def test_blocks_stand_where_each_model_has_them(name, places):
    _, model = tiny(name)
    found = [layer.gated_cross_attn_layer is not None for layer in model.layers]
    assert found == places


def test_checkpoints_are_counted_over_all_modules_in_their_order():
    _, model = tiny("openflamingo-tiny")
    model.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=3)
    marks = [m.gradient_checkpointing for m in model.checkpointed_in_order()]
    assert marks == [index % 3 == 0 for index in range(7)]


@pytest.mark.parametrize("name", TINY)
def test_checkpointing_changes_no_gradient(name):
    config, model = tiny(name)
    open_gates(model)
    tensors = batch(config)
    gradients = []
    for checkpoints in (False, True):
        if checkpoints:
            model.train()
            model.activation_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        model(**tensors).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        other = gradients[1][name]
        if gradient is None or other is None:
            assert gradient is other, name
        else:
            assert torch.allclose(gradient, other, atol=1e-6), name


def test_a_batch_marks_its_pictures_and_trains_on_the_text_alone():
    config = find_model("openflamingo-tiny").config
    tensors = batch(config, images_per_sample=3)
    media = config.text_config.vocab_size - 1
    assert (tensors["input_ids"] == media).sum(dim=1).tolist() == [3, 3]
    assert torch.equal(tensors["labels"] == -100, tensors["input_ids"] == media)


# Parameters


def counted(config):
    """How many parameters of each shape the closed form has."""
    tape = Tape(policy=lambda name, shape, is_linear: Stored("fp32", False, 0))
    model = find_model("openflamingo-tiny").family
    model.forward(
        tape,
        config,
        Batch(size=1, seq_len=8, images_per_sample=1, image_size=config.image_size),
    )
    shapes = Counter()
    for parameter in tape.parameters.values():
        shapes[parameter.shape] += parameter.count
    return shapes


@cache
def built_empty(name):
    """The module without any memory."""
    config = find_model(name).config
    if config.nfnet_config is not None:
        pytest.importorskip("timm")
    with torch.device("meta"):
        return flamingo.build(config, torch.float32, None)


@pytest.mark.parametrize("name", [*TINY, *PUBLISHED])
def test_the_module_has_the_parameters_of_closed_form_and_preset(name):
    model = find_model(name)
    parameters = dict(built_empty(name).named_parameters())
    assert Counter(tuple(p.shape) for p in parameters.values()) == counted(model.config)
    preset = read_preset(name)["parameters"]
    assert sum(p.numel() for p in parameters.values()) == preset["total"]
    patterns = model.trainable_sets[model.default_trainable]
    trained = sum(
        p.numel()
        for n, p in parameters.items()
        if any(re.search(pattern, n) for pattern in patterns)
    )
    assert trained == preset["trainable"]


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("openflamingo-3b", 1_046_992_944),
        ("openflamingo-4b", 960_763_936),
        ("openflamingo-9b", 1_384_781_840),
    ],
)
def test_the_module_trains_what_openflamingo_publishes(name, published):
    assert read_preset(name)["parameters"]["trainable"] == published


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_part_has_its_published_parameters(name):
    config, built = find_model(name).config, built_empty(name)
    D = config.text_config.hidden_size
    blocks = [
        layer.gated_cross_attn_layer
        for layer in built.layers
        if layer.gated_cross_attn_layer is not None
    ]
    sizes = [sum(p.numel() for p in block.parameters()) for block in blocks]
    assert len(set(sizes)) == 1
    resampler = sum(p.numel() for p in built.perceiver.parameters())
    if config.is_paper:
        # Squares of the width, and beside them norms and two gates.
        assert sizes[0] == 12 * D * D + 6 * D + 2
        assert math.isclose(resampler, 194e6, rel_tol=5e-3)
    else:
        published = {2048: 36_708_354, 2560: 56_109_058, 4096: 139_476_994}
        assert sizes[0] == published[D]
        assert resampler == 63_019_008
    # Of the blocks all but the gates are matrices and norms: gates are two scalars.
    gates = [p for n, p in blocks[0].named_parameters() if n.endswith("_gate")]
    assert [p.numel() for p in gates] == [1, 1]


def test_the_map_to_the_width_of_the_language_model_is_no_parameter():
    config, model = tiny("flamingo-tiny")
    assert "media_map" in dict(model.named_buffers())
    assert "media_map" in model.state_dict()
    wider = replace(config, cross_attn_every_n_layers=4)
    assert flamingo.build(wider, torch.float32, None).media_map.shape == (128, 256)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_page_says_the_presets_numbers(name):
    page = (Path(__file__).parents[3] / "docs" / "flamingo.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` "))
    config, parameters = find_model(name).config, read_preset(name)["parameters"]
    fields = [field.strip() for field in row.strip("| ").split("|")]
    assert int(fields[3]) == config.num_blocks
    assert fields[4:] == [f"{parameters[n]:,}" for n in ("trainable", "total")]
