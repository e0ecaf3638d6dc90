"""memplan's own systems answer with the weights of a checkpoint."""

import pytest
from PIL import Image

from memplan import TrainingPlan
from memplan.models import find_model

torch = pytest.importorskip("torch", reason="models need torch")
pytest.importorskip("transformers", reason="their towers are transformers'")

from tiny_blip import tokenizer as word_tokenizer  # noqa: E402

from memplan.mme.checkpoints import find_checkpoint  # noqa: E402
from memplan.mme.loading import load_answerer  # noqa: E402
from memplan.models.checkpoint import save_checkpoint  # noqa: E402
from memplan.models.flamingo.miniature import byte_tokenizer  # noqa: E402
from memplan.runner.training.model import build_model, set_ties  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("default"),  # warnings of the libraries
    pytest.mark.usefixtures("one_thread"),
]
CPU = torch.device("cpu")
TOKENIZERS = {
    "flamingo-tiny": byte_tokenizer,
    "openflamingo-tiny": byte_tokenizer,
    "mmicl-tiny": word_tokenizer,
}
QUESTIONS = ["Is this a square ?", "Is there a red circle in the image ? Please", "yes"]
IMAGES = [Image.new("RGB", (40, 30), color) for color in ("red", "blue", "green")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint of each system, with weights that tell pictures apart."""
    root = tmp_path_factory.mktemp("checkpoints")
    for name, tokenizer in TOKENIZERS.items():
        torch.manual_seed(0)
        model = find_model(name)
        module = build_model(model, torch.float32, None)
        set_ties(model, module)
        with torch.no_grad():
            for path, parameter in module.named_parameters():
                if path.endswith("_gate") or "gate" in path.rpartition(".")[2]:
                    parameter.fill_(1.0)
                elif parameter.dim() > 1:
                    parameter.normal_(std=0.2)
            known = tokenizer()
            # Only tokens that the tokenizer knows are answers that can be read.
            for table in ("lm_head.weight", "wte.weight", "embed.weight"):
                for path, parameter in module.named_parameters():
                    if path.endswith(table):
                        parameter[len(known) :] = 0.0
        save_checkpoint(root / name, module, model.source, known)
    return root


def answerer_of(name, folders, **fields):
    fields = {"precision": "fp32", "max_new_tokens": 4} | fields
    plan = TrainingPlan(model=name, workload="mme", **fields)
    return load_answerer(find_checkpoint(name, folders / name), plan, CPU)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_batch_gets_the_answers_of_its_questions_one_by_one(name, folders):
    answerer = answerer_of(name, folders)
    together = answerer.answer(IMAGES, QUESTIONS)
    alone = [
        answerer.answer([image], [question])[0]
        for image, question in zip(IMAGES, QUESTIONS, strict=True)
    ]
    assert together == alone
    assert len(set(together)) > 1


@pytest.mark.parametrize("name", TOKENIZERS)
def test_answers_depend_on_the_picture(name, folders):
    answers = answerer_of(name, folders).answer(IMAGES, [QUESTIONS[0]] * 3)
    assert len(set(answers)) > 1


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_folder_is_a_model_by_itself(name, folders):
    plan = TrainingPlan(
        model=str(folders / name), workload="mme", precision="fp32", max_new_tokens=4
    )
    found = find_checkpoint(str(folders / name))
    answers = load_answerer(found, plan, CPU).answer(IMAGES, QUESTIONS)
    assert answers == answerer_of(name, folders).answer(IMAGES, QUESTIONS)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_mixed_precision_runs(name, folders):
    answerer = answerer_of(name, folders, precision="bf16-mixed")
    assert len(answerer.answer(IMAGES[:1], QUESTIONS[:1])) == 1


def test_low_precision_stores_all_weights_so(folders):
    answerer = answerer_of("mmicl-tiny", folders, precision="bf16-pure")
    assert len(answerer.answer(IMAGES, QUESTIONS)) == 3


@pytest.mark.parametrize("name", ["mmicl-tiny", "openflamingo-tiny"])
@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_quantized_system_has_the_weights_of_its_checkpoint(
    name, quantization, folders
):
    pytest.importorskip("bitsandbytes", reason="it quantizes")
    fields = {"precision": "bf16-pure", "quantization": quantization}
    coarse = answerer_of(name, folders, **fields).module
    exact = answerer_of(name, folders, precision="bf16-pure").module
    quantized = [
        (path, module)
        for path, module in coarse.named_modules()
        if type(module).__name__ in ("Linear8bitLt", "Linear4bit")
    ]
    assert quantized
    path, module = quantized[0]
    inputs = torch.eye(module.in_features, dtype=torch.bfloat16)
    weight = exact.get_submodule(path).weight.float()
    restored = module(inputs).float().T
    if module.bias is not None:
        restored -= module.bias.float()[:, None]
    assert (restored - weight).norm() < 0.15 * weight.norm()


@pytest.mark.parametrize("name", ["mmicl-tiny", "openflamingo-tiny"])
def test_a_checkpoint_of_a_training_run_is_one(name, folders, tmp_path):
    """As accelerate leaves it, with the other files beside it."""
    accelerate = pytest.importorskip("accelerate", reason="it saves the run")
    import shutil

    module = answerer_of(name, folders).module
    accelerator = accelerate.Accelerator(cpu=True)
    accelerator.prepare(module)
    accelerator.save_state(str(tmp_path / name))
    for file in (folders / name).glob("*.json"):
        shutil.copy(file, tmp_path / name)
    answers = answerer_of(name, tmp_path).answer(IMAGES, QUESTIONS)
    assert answers == answerer_of(name, folders).answer(IMAGES, QUESTIONS)


def test_a_head_that_is_a_table_stays_so_when_built_empty():
    from memplan.runner.training.weights import empty_parameters, materialise

    model = find_model("openflamingo-tiny")
    with empty_parameters(CPU):
        module = build_model(model, torch.float32, None)
    set_ties(model, module)
    materialise(module, CPU)
    language = module.lang_encoder
    table = language.get_input_embeddings().weight
    assert language.get_output_embeddings().weight is table
