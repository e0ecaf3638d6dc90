"""What cannot be run is said in a sentence before anything is built."""

import json
import subprocess
import sys

import pytest

from memplan import TrainingPlan
from memplan.errors import PlanError
from memplan.models import find_model
from memplan.runner.training import refusals


def plan(**fields):
    return TrainingPlan(**{"model": "gpt2", "seq_len": 64} | fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_gpus": 2, "tensor_parallel": 2}, "Tensor parallelism"),
        ({"num_gpus": 2, "pipeline_parallel": 2}, "Pipeline parallelism"),
        ({"num_gpus": 2, "context_parallel": 2}, "Context parallelism"),
        ({"num_gpus": 2, "expert_parallel": 2}, "Expert parallelism"),
        ({"accounting": "zero"}, "convention"),
        ({"num_gpus": 2, "zero_stage": 2, "offload_optimizer": True}, "FSDP2 offloads"),
        ({"workload": "generate", "num_gpus": 2}, "one GPU"),
        ({"workload": "generate", "seq_len": 1000, "max_new_tokens": 100}, "1100"),
        ({"workload": "mme"}, "no questions about pictures"),
        ({"model": "flamingo-tiny", "num_gpus": 2, "zero_stage": 3}, "scalar"),
        ({"optim": "lion", "num_gpus": 2, "zero_stage": 3}, "no rule"),
        ({"optim": "adamw_8bit", "num_gpus": 2, "zero_stage": 2}, "no rule"),
        ({"optim": "adafactor", "num_gpus": 2, "zero_stage": 3}, "Adafactor"),
        (
            {
                "trainable": "lora",
                "quantization": "int8",
                "num_gpus": 2,
                "zero_stage": 3,
                "sharding": "deepspeed",
            },
            "not run under",
        ),
        ({"optim": "torch_adafactor", "num_gpus": 2, "zero_stage": 2}, "Adafactor"),
        (
            {
                "trainable": "lora",
                "quantization": "int8",
                "num_gpus": 2,
                "zero_stage": 3,
            },
            "int8 weights",
        ),
        (
            {
                "model": "clip-vit-base-patch32",
                "num_gpus": 2,
                "zero_stage": 1,
                "sharding": "deepspeed",
            },
            "without a dimension",
        ),
        ({"model": "t5-large", "num_gpus": 2, "zero_stage": 3}, "two groups"),
        (
            {
                "model": "t5-large",
                "trainable": "lora",
                "quantization": "nf4",
                "activation_checkpointing": "selective",
                "gpu": "t4",
            },
            "other casts",
        ),
        (
            {
                "model": "llava-1.5-7b",
                "seq_len": None,
                "trainable": "lora",
                "num_gpus": 2,
                "activation_checkpointing": "full",
            },
            "no gradient",
        ),
        (
            {
                "model": "flamingo-9b",
                "seq_len": None,
                "precision": "fp32",
                "trainable": "lora",
            },
            "autocast",
        ),
        ({"model": "pe-net-tiny", "seq_len": None, "precision": "bf16-pure"}, "RoI"),
        ({"model": "mmicl-tiny", "seq_len": None, "precision": "fp32"}, "autocast"),
        (
            {
                "model": "pe-net-tiny",
                "seq_len": None,
                "activation_checkpointing": "full",
            },
            "no layers",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_plan_that_cannot_be_run_is_refused(fields, words):
    with pytest.raises(PlanError, match=words) as refused:
        refusals.check(plan(**fields))
    assert refused.value.hint


def test_a_parameter_count_is_no_model():
    with pytest.raises(PlanError, match="no model that could be run"):
        refusals.check(TrainingPlan(parameters=7_000_000_000))


@pytest.mark.parametrize(
    ("fields", "library"),
    [
        ({"trainable": "lora"}, "peft"),
        ({"optim": "lion_8bit"}, "bitsandbytes"),
        ({"trainable": "lora", "quantization": "nf4"}, "bitsandbytes"),
        ({"num_gpus": 2, "zero_stage": 1, "sharding": "deepspeed"}, "deepspeed"),
        ({"model": "pe-net-tiny", "seq_len": None}, "torchvision"),
        ({"model": "flamingo-3b"}, "timm"),
        ({}, "accelerate"),
    ],
)
def test_a_missing_library_is_named_with_how_to_install_it(
    fields, library, monkeypatch
):
    monkeypatch.setattr(
        refusals, "find_spec", lambda name: None if name == library else object()
    )
    with pytest.raises(PlanError, match=f"needs {library}") as refused:
        refusals.check(plan(**fields))
    assert refused.value.hint == f"pip install {library}"


def test_a_plan_that_can_be_run_names_its_model(monkeypatch):
    monkeypatch.setattr(refusals, "find_spec", lambda name: object())
    assert refusals.check(plan()) is find_model("gpt2")


def test_the_program_leaves_with_2_and_imports_no_torch_to_refuse(tmp_path):
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"parameters": 1000}))
    code = (
        "import sys\n"
        "from memplan.runner.training.__main__ import main\n"
        "code = main(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "no model that could be run" in done.stderr
    assert "hint:" in done.stderr


@pytest.mark.parametrize("text", ["", "[]", '{"modle": "gpt2"}', '{"model": 3}'])
def test_a_file_that_holds_no_plan_is_named(text, tmp_path):
    from memplan.runner.training.__main__ import read_plan

    file = tmp_path / "plan.json"
    file.write_text(text)
    with pytest.raises(PlanError, match=r"plan\.json|model"):
        read_plan(str(file))


def test_a_plan_is_read_as_text_or_from_a_file(tmp_path):
    from memplan.runner.training.__main__ import read_plan

    text = json.dumps({"model": "gpt2", "seq_len": 64})
    file = tmp_path / "plan.json"
    file.write_text(text)
    assert read_plan(text) == read_plan(str(file)) == plan(seq_len=64)
    with pytest.raises(PlanError, match="The text holds no training plan"):
        read_plan('{"model": 3}')
    with pytest.raises(PlanError, match="cannot be read"):
        read_plan(str(tmp_path / "missing.json"))
