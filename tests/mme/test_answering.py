"""Checkpoints become answerers: same weights, same answers, whatever the batch."""

import json

import pytest
from PIL import Image

from memplan import TrainingPlan
from memplan.errors import DataError, MemplanError, PlanError

torch = pytest.importorskip("torch", reason="models need torch")
pytest.importorskip("transformers", reason="the models are those of transformers")

from tiny_blip import OPT, T5, save_tiny  # noqa: E402

from memplan.mme.answering import MODULES  # noqa: E402
from memplan.mme.checkpoints import find_checkpoint  # noqa: E402
from memplan.mme.loading import load_answerer, usable_device  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")  # warnings of the libraries
CPU = torch.device("cpu")
QUESTIONS = ["Is this a square ?", "Is there a red circle in the image ? Please", "yes"]
IMAGES = [Image.new("RGB", (40, 30), color) for color in ("red", "blue", "green")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny checkpoints, by kind."""
    root = tmp_path_factory.mktemp("checkpoints")
    kinds = {
        "instructblip": ("instructblip", T5),
        "blip-2": ("blip-2", T5),
        "blip-2-opt": ("blip-2", OPT),
    }
    for name, (kind, text) in kinds.items():
        save_tiny(root / name, kind, text)
    return {name: root / name for name in kinds}


def answerer_of(folder, precision="fp32", **fields):
    plan = TrainingPlan(
        model=str(folder), workload="mme", precision=precision, **fields
    )
    return load_answerer(find_checkpoint(str(folder)), plan, CPU)


def load_failure(folder):
    with pytest.raises(MemplanError) as caught:
        answerer_of(folder)
    return caught.value.message


@pytest.mark.parametrize("kind", ["instructblip", "blip-2", "blip-2-opt"])
def test_a_batch_gets_the_answers_of_its_questions_one_by_one(kind, folders):
    answerer = answerer_of(folders[kind])
    together = answerer.answer(IMAGES, QUESTIONS)
    alone = [
        answerer.answer([image], [question])[0]
        for image, question in zip(IMAGES, QUESTIONS, strict=True)
    ]
    assert together == alone
    assert len(set(together)) == 3


@pytest.mark.parametrize("kind", ["instructblip", "blip-2", "blip-2-opt"])
def test_an_answer_is_text_alone_and_as_long_as_asked(kind, folders):
    for answer in answerer_of(folders[kind], max_new_tokens=3).answer(
        IMAGES, QUESTIONS
    ):
        assert answer == answer.strip()
        assert len(answer.split()) <= 3
        assert "<" not in answer
        assert "Question :" not in answer


def test_answers_depend_on_the_picture(folders):
    answerer = answerer_of(folders["instructblip"])
    answers = answerer.answer(IMAGES, [QUESTIONS[0]] * 3)
    assert len(set(answers)) > 1


def test_weights_of_the_checkpoint_decide(folders, tmp_path):
    save_tiny(tmp_path / "other", seed=1)
    one = answerer_of(folders["instructblip"]).answer(IMAGES, QUESTIONS)
    other = answerer_of(tmp_path / "other").answer(IMAGES, QUESTIONS)
    assert one != other


def test_a_head_of_its_own_is_kept(folders, tmp_path):
    """transformers' T5 ties its head, and FLAN-T5's checkpoints have two tables."""
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "untied"
    shutil.copytree(folders["instructblip"], folder)
    weights = load_file(folder / "model.safetensors")
    table = weights["language_model.shared.weight"]
    weights["language_model.lm_head.weight"] = table.flip(0).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tied = answerer_of(folders["instructblip"]).answer(IMAGES, QUESTIONS)
    assert answerer_of(folder).answer(IMAGES, QUESTIONS) != tied


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-pure"])
def test_lower_precisions_run(precision, folders):
    answers = answerer_of(folders["instructblip"], precision).answer(IMAGES, QUESTIONS)
    assert len(answers) == 3


@pytest.mark.parametrize(
    ("quantization", "layer"), [("int8", "Linear8bitLt"), ("nf4", "Linear4bit")]
)
def test_a_quantized_model_answers_otherwise(quantization, layer, folders):
    pytest.importorskip("bitsandbytes", reason="it quantizes")
    folder = folders["instructblip"]
    exact = answerer_of(folder, "bf16-pure")
    coarse = answerer_of(folder, "bf16-pure", quantization=quantization)
    kinds = {type(module).__name__ for module in coarse.module.modules()}
    assert layer in kinds
    answers = coarse.answer(IMAGES, QUESTIONS)
    assert answers != exact.answer(IMAGES, QUESTIONS)
    assert all(answers)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(name, folders, tmp_path):
    import shutil

    shutil.copytree(folders["blip-2"], tmp_path / "broken")
    (tmp_path / "broken" / name).unlink()
    assert name in load_failure(tmp_path / "broken")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("model.safetensors", b"\0" * 100, "cannot be loaded"),
        ("config.json", b"{", "holds no model configuration"),
        ("config.json", b'{"model_type": "gpt2"}', "answers no questions"),
        ("processor_config.json", b"{", "Blip2Processor"),
    ],
    ids=["weights", "sizes", "another-model", "processor"],
)
def test_a_damaged_file_is_named(name, content, says, folders, tmp_path):
    import shutil

    shutil.copytree(folders["blip-2"], tmp_path / "broken")
    (tmp_path / "broken" / name).write_bytes(content)
    assert says in load_failure(tmp_path / "broken")


def test_a_checkpoint_that_lacks_weights_is_refused(folders, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folders["blip-2"], tmp_path / "broken")
    file = tmp_path / "broken" / "model.safetensors"
    weights = load_file(file)
    del weights["query_tokens"]
    save_file(weights, file, metadata={"format": "pt"})
    assert "lacks the weight query_tokens" in load_failure(tmp_path / "broken")


def test_another_image_token_is_refused(folders, tmp_path):
    import shutil

    shutil.copytree(folders["blip-2"], tmp_path / "broken")
    file = tmp_path / "broken" / "config.json"
    config = json.loads(file.read_text())
    config["image_token_index"] = config["image_token_id"] = 7
    file.write_text(json.dumps(config))
    assert "token 7 of the model" in load_failure(tmp_path / "broken")


def test_a_preset_alone_has_no_weights():
    with pytest.raises(DataError, match="without weights"):
        find_checkpoint("mmicl-tiny")


def test_a_preset_that_answers_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match="answers no questions"):
        find_checkpoint("gpt2", tmp_path)


def test_a_checkpoint_of_other_sizes_is_not_the_presets(tmp_path):
    from memplan.models.catalogue import read_preset

    config = read_preset("mmicl-tiny")["config"] | {"num_query_tokens": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="not of mmicl-tiny"):
        find_checkpoint("mmicl-tiny", tmp_path)


def test_nothing_is_downloaded():
    with pytest.raises(DataError, match="neither a preset nor a folder"):
        find_checkpoint("Salesforce/instructblip-flan-t5-xl")


def test_a_digest_is_of_the_contents(folders, tmp_path):
    import shutil

    shutil.copytree(folders["blip-2"], tmp_path / "copy")
    one, copy = (
        find_checkpoint(str(f)) for f in (folders["blip-2"], tmp_path / "copy")
    )
    assert one.digest() == copy.digest()
    (tmp_path / "copy" / "tokenizer.json").write_text("{}")
    assert one.digest() != copy.digest()


def test_a_device_that_is_not_there_is_named():
    for name in ("nowhere", "meta2"):
        with pytest.raises(PlanError, match=name):
            usable_device(name)


def test_every_system_that_is_listed_answers():
    from importlib import import_module

    for name in MODULES.values():
        assert callable(import_module(name).make_answerer)
