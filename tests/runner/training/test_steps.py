"""The program trains: losses are numbers, what trains moves, what is frozen does not.

On the host, where values are real; on a card the same code runs.
"""

import pytest

from memplan import TrainingPlan

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("transformers", reason="the models are those of transformers")
pytest.importorskip("accelerate", reason="accelerate runs the step")

from memplan.runner.training import refusals  # noqa: E402
from memplan.runner.training.assemble import assemble, build  # noqa: E402
from memplan.runner.training.generate import generate  # noqa: E402
from memplan.runner.training.parallel import make_accelerator  # noqa: E402
from memplan.runner.training.step import train  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")  # warnings of the libraries

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
}
T5 = {
    "model_type": "t5",
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 1,
    "num_heads": 4,
    "vocab_size": 128,
}
GPT2 = {
    "model_type": "gpt2",
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "vocab_size": 128,
}
BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "vocab_size": 128,
}
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}
VIT = {"model_type": "vit", **TOWER, "image_size": 32, "patch_size": 16}
CLIP = {
    "model_type": "clip",
    "projection_dim": 16,
    # The last token ends a text: CLIP looks for the largest id.
    "text_config": TOWER | {"vocab_size": 128, "eos_token_id": 2},
    "vision_config": TOWER | {"image_size": 32, "patch_size": 16},
}
BLIP2 = {
    "model_type": "blip-2",
    "num_query_tokens": 4,
    "vision_config": TOWER | {"image_size": 28, "patch_size": 14},
    "qformer_config": TOWER | {"num_hidden_layers": 2, "vocab_size": 64},
    "text_config": T5,
}
INSTRUCTBLIP = BLIP2 | {"model_type": "instructblip"}
SEQ_LENS = {"seq_len": 16}
TARGETS = {"seq_len": 16, "target_seq_len": 8}


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """accelerate keeps the state of the process, precision included."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@pytest.fixture
def ready(tmp_path):
    """Makes a run of a plan: a preset's name, or a configuration."""
    import json

    def make(model, **fields):
        if isinstance(model, dict):
            file = tmp_path / "config.json"
            file.write_text(json.dumps(model))
            model = str(file)
        fields = {"precision": "fp32", "per_device_train_batch_size": 2} | fields
        plan = TrainingPlan(model=model, **fields)
        found = refusals.check(plan)
        accelerator = make_accelerator(plan)
        module = build(plan, found, accelerator.device)
        return plan, found, module, accelerator

    return make


CASES = {
    "llama": (LLAMA, SEQ_LENS),
    "llama, accumulated": (LLAMA, {**SEQ_LENS, "gradient_accumulation_steps": 2}),
    "llama, checkpointed": (LLAMA, {**SEQ_LENS, "activation_checkpointing": "full"}),
    "llama, every second": (LLAMA, {**SEQ_LENS, "activation_checkpointing": "every-2"}),
    "llama, selective": (LLAMA, {**SEQ_LENS, "activation_checkpointing": "selective"}),
    "llama, autocast": (LLAMA, {**SEQ_LENS, "precision": "bf16-mixed"}),
    "llama, bf16": (LLAMA, {**SEQ_LENS, "precision": "bf16-pure"}),
    "llama, averaged": (LLAMA, {**SEQ_LENS, "ema": True}),
    "llama, eager": (LLAMA, {**SEQ_LENS, "attn_implementation": "eager"}),
    "llama, head alone": (LLAMA, {**SEQ_LENS, "trainable": "lm_head"}),
    "llama, adapters": (LLAMA, {**SEQ_LENS, "trainable": "lora"}),
    "gpt2, adapters": (GPT2, {**SEQ_LENS, "trainable": "lora"}),
    "bert": (BERT, SEQ_LENS),
    "t5": (T5, TARGETS),
    "vit": (VIT, {}),
    "clip": (CLIP, SEQ_LENS),
    "blip2": (BLIP2, {**TARGETS, "images_per_sample": 2}),
    "instructblip": (INSTRUCTBLIP, TARGETS),
    "mmicl": ("mmicl-tiny", {"precision": "bf16-mixed"}),
    "mmicl, bf16": ("mmicl-tiny", {"precision": "bf16-pure"}),
    "openflamingo": ("openflamingo-tiny", {}),
    "openflamingo, checkpointed": (
        "openflamingo-tiny",
        {"activation_checkpointing": "full"},
    ),
    "flamingo": ("flamingo-tiny", {"precision": "bf16-mixed"}),
    "pe-net": ("pe-net-tiny", {"optim": "sgd_momentum", "max_grad_norm": 5.0}),
}


SLOW = ("flamingo", "mmicl", "mmicl, bf16", "openflamingo, checkpointed", "pe-net")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES],
)
def test_a_plan_trains(name, ready):
    if name.startswith("pe-net"):
        pytest.importorskip("torchvision")
    if name.endswith("adapters"):
        pytest.importorskip("peft")
    model, fields = CASES[name]
    torch.manual_seed(0)
    plan, found, module, accelerator = ready(model, **fields)
    run = assemble(plan, found, accelerator, module)
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    train(run, steps=2, micro_batches=plan.gradient_accumulation_steps)
    assert torch.isfinite(run.loss)
    assert not run.loss.requires_grad
    moved = {n for n, p in module.named_parameters() if not torch.equal(p, before[n])}
    trained = {n for n, p in module.named_parameters() if p.requires_grad}
    assert moved
    assert moved <= trained
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize(
    "name", ["llama", "gpt2", "t5", "blip2", "mmicl", "openflamingo"]
)
def test_a_plan_generates_as_many_tokens_as_it_asks_for(name, ready, monkeypatch):
    model, fields = CASES.get(name, (GPT2, SEQ_LENS))
    plan, found, module, accelerator = ready(
        model, **fields, workload="generate", max_new_tokens=3
    )
    calls = []
    inner = getattr(module, "language_model", module)
    inner.register_forward_hook(lambda *_: calls.append(1))
    generate(plan, found, module, accelerator.device)
    is_encoded = name not in ("llama", "gpt2", "openflamingo")
    assert len(calls) == 3 + (not is_encoded)
    assert not module.training


def test_what_is_frozen_is_stored_as_the_plan_says(ready):
    _, _, module, _ = ready(
        LLAMA,
        **SEQ_LENS,
        trainable="lm_head",
        frozen_dtype="bf16",
        precision="bf16-mixed",
    )
    dtypes = {p.requires_grad: p.dtype for p in module.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}


def test_a_pattern_that_finds_nothing_is_named(ready):
    from memplan.errors import UnknownNameError

    with pytest.raises(UnknownNameError, match="lm_heed"):
        ready(LLAMA, **SEQ_LENS, trainable="lm_heed")


def test_a_target_that_is_no_linear_layer_is_named(ready):
    from memplan.errors import UnknownNameError

    pytest.importorskip("peft")
    with pytest.raises(UnknownNameError, match="q_prj"):
        ready(LLAMA, **SEQ_LENS, trainable="lora", lora_targets=("q_prj",))


def test_more_processes_than_the_plan_has_gpus_are_refused(monkeypatch):
    from memplan.errors import PlanError
    from memplan.runner.training.parallel import check_world

    monkeypatch.setenv("WORLD_SIZE", "4")
    check_world(TrainingPlan(model="gpt2", num_gpus=4))
    with pytest.raises(PlanError, match="for 2 GPUs, and 4 processes"):
        check_world(TrainingPlan(model="gpt2", num_gpus=2))


def test_a_kernel_that_cannot_run_is_a_sentence():
    from memplan.errors import PlanError
    from memplan.runner.training.attention import attention_kernel

    plan = TrainingPlan(model="gpt2", attn_implementation="cudnn")
    with (
        pytest.raises(PlanError, match="cudnn kernel cannot run"),
        attention_kernel(plan),
    ):
        raise RuntimeError("No available kernel. Aborting execution.")
    with pytest.raises(RuntimeError, match="other"), attention_kernel(plan):
        raise RuntimeError("other")
