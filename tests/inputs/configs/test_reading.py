"""Several files and flags together: who wins, what is left open, what is told."""

import json

import pytest
import yaml

from memplan.errors import ConfigError, PlanError
from memplan.estimate import estimate
from memplan.inputs.configs.reading import read_files
from memplan.plan import TrainingPlan
from memplan.report import to_json

FSDP = {
    "distributed_type": "FSDP",
    "mixed_precision": "bf16",
    "num_processes": 8,
    "fsdp_config": {
        "fsdp_version": 2,
        "fsdp_reshard_after_forward": True,
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    },
}
MULTI_GPU = {
    "distributed_type": "MULTI_GPU",
    "mixed_precision": "bf16",
    "num_processes": 4,
}
ARGUMENTS = {
    "output_dir": "out",
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "max_grad_norm": 1.0,
    "optim": "adamw_torch_fused",
    "bf16": True,
}
ENGINE = {
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "bf16": {"enabled": "auto"},
    "zero_optimization": {"stage": 2},
}


@pytest.fixture
def reads(tmp_path, monkeypatch):
    """What documents say together, written beside one another."""
    monkeypatch.chdir(tmp_path)

    def read(*documents, flags=None, **named):
        for name, document in named.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(document))
        files = []
        for number, document in enumerate(documents):
            files.append(tmp_path / f"{number}.yaml")
            files[-1].write_text(yaml.safe_dump(document))
        return read_files(files, flags)

    return read


class TestWhoWins:
    def test_the_later_of_two_files(self, reads):
        one, other = (ARGUMENTS | {"per_device_train_batch_size": n} for n in (2, 3))
        assert reads(one, other).fields["per_device_train_batch_size"] == 3
        assert reads(other, one).fields["per_device_train_batch_size"] == 2

    def test_flags_over_all_files(self, reads):
        asked = reads(ARGUMENTS, FSDP, flags={"num_gpus": 16, "precision": "fp32"})
        assert (asked.fields["num_gpus"], asked.fields["precision"]) == (16, "fp32")

    @pytest.mark.parametrize("is_first", [True, False])
    def test_what_is_said_over_what_is_so_by_default(self, reads, is_first):
        """A Trainer without a word of precision runs in that of `accelerate launch`."""
        silent = {k: v for k, v in ARGUMENTS.items() if k != "bf16"}
        files = (silent, MULTI_GPU) if is_first else (MULTI_GPU, silent)
        assert reads(*files).fields["precision"] == "bf16-mixed"

    @pytest.mark.parametrize("is_first", [True, False])
    def test_the_trainer_s_precision_over_that_of_the_launcher(self, reads, is_first):
        fp16 = ARGUMENTS | {"bf16": False, "fp16": True}
        files = (fp16, MULTI_GPU) if is_first else (MULTI_GPU, fp16)
        assert reads(*files).fields["precision"] == "fp16-mixed"

    def test_a_switch_that_is_off_gives_way_to_one_that_is_on(self, reads):
        on = ARGUMENTS | {"gradient_checkpointing": True}
        off = FSDP | {
            "fsdp_config": FSDP["fsdp_config"]
            | {"fsdp_activation_checkpointing": False}
        }
        assert reads(on, off).fields["activation_checkpointing"] == "full"
        assert reads(off, on).fields["activation_checkpointing"] == "full"

    def test_a_model_of_a_flag_has_not_the_revision_of_a_file(self, reads):
        named = ARGUMENTS | {"model_name_or_path": "org/model", "model_revision": "v2"}
        assert reads(named).fields["revision"] == "v2"
        assert "revision" not in reads(named, flags={"model": "gpt2"}).fields
        alone = reads(named, flags={"parameters": 10**9}).fields
        assert not {"model", "revision"} & alone.keys()

    def test_layers_for_adapters_go_with_the_adapters(self, reads):
        adapted = {"model_name_or_path": "gpt2", "finetuning_type": "lora"}
        asked = reads(adapted | {"lora_target": "c_attn"}, flags={"trainable": "all"})
        assert TrainingPlan(**asked.fields).lora_targets == ()


class TestWhatIsTold:
    def test_what_each_file_was_read_as(self, reads):
        lines = [file.line for file in reads(ARGUMENTS, FSDP).files]
        assert [line.partition(" read as ")[2] for line in lines] == [
            "TrainingArguments",
            "accelerate config",
        ]

    def test_files_that_are_named_by_a_file(self, reads):
        (file,) = reads(ARGUMENTS | {"deepspeed": "zero.json"}, zero=ENGINE).files
        assert file.line.endswith("TrainingArguments, with zero.json")

    def test_defaults_that_are_not_those_of_a_plan(self, reads):
        silent = {"output_dir": "out", "max_grad_norm": 1.0, "optim": "adamw_torch"}
        assert reads(silent).assumed == (
            "per_device_train_batch_size 8: 0.yaml leaves it to the default",
            "precision fp32: 0.yaml leaves it to the default",
        )
        said = {"per_device_train_batch_size": 8, "precision": "bf16-mixed"}
        assert reads(silent, flags=said).assumed == ()

    def test_what_all_files_leave_open(self, reads):
        left = [line for line in reads(ENGINE).not_read if "left open" in line]
        assert left == [
            "gradient_accumulation_steps is left open by all files: counted as 1",
            "max_grad_norm is left open by all files: counted as 1.0",
            "num_gpus is left open by all files: counted as 1",
            "per_device_train_batch_size is left open by all files: counted as 1",
            "precision is left open by all files: counted as bf16-mixed",
        ]

    def test_what_one_leaves_open_and_another_says_is_not(self, reads):
        asked = reads(ENGINE, ARGUMENTS, flags={"num_gpus": 8})
        assert asked.not_read == ()
        assert asked.fields["per_device_train_batch_size"] == 2

    def test_keys_that_can_move_memory_with_their_file(self, reads):
        (line,) = reads(ARGUMENTS | {"some_new_buffer": 3}).not_read
        assert line == "0.yaml: some_new_buffer: not known to memplan"

    def test_both_in_the_report(self, reads):
        asked = reads({"output_dir": "out", "model_name_or_path": "gpt2", "novel": 1})
        report = asked.onto(estimate(TrainingPlan(**asked.fields)))
        assert report.assumptions[-len(asked.assumed) :] == asked.assumed
        assert report.unsupported[-1] == "0.yaml: novel: not known to memplan"


class TestWhatContradicts:
    @pytest.mark.parametrize(
        ("engine", "said"),
        [
            ({"train_micro_batch_size_per_gpu": 3}, "per_device_train_batch_size 3"),
            ({"gradient_accumulation_steps": 3}, "gradient_accumulation_steps 3"),
            ({"fp16": {"enabled": True}, "bf16": {}}, "precision fp16"),
        ],
    )
    def test_deepspeed_and_the_trainer(self, reads, engine, said):
        with pytest.raises(ConfigError, match=rf"0\.yaml.*{said}"):
            reads(ARGUMENTS | {"deepspeed": "zero.json"}, zero=ENGINE | engine)

    def test_both_kinds_of_mixed_precision(self, reads):
        with pytest.raises(ConfigError, match="bf16 and fp16 are both set"):
            reads(ARGUMENTS | {"fp16": True})

    def test_parallelism_that_does_not_divide_the_processes(self, reads):
        sizes = {"parallelism_config_dp_shard_size": 3}
        with pytest.raises(ConfigError, match="divides 3 processes"):
            reads(FSDP | {"parallelism_config": sizes})

    def test_a_batch_that_is_no_product(self, reads):
        counts = {"train_batch_size": 10, "train_micro_batch_size_per_gpu": 4}
        with pytest.raises(ConfigError, match="train_batch_size must be a multiple"):
            reads(ENGINE | counts)

    @pytest.mark.parametrize(
        ("document", "problem"),
        [
            ({"distributed_type": "MEGATRON_LM"}, "MEGATRON_LM has no formula"),
            ({"distributed_type": "XLA"}, "XLA has no formula"),
            ({"distributed_type": "NO", "use_cpu": True}, "takes no GPU"),
            ({"compute_environment": "AMAZON_SAGEMAKER"}, "runs elsewhere"),
            ({"distributed_type": "FSDP", "num_processes": "many"}, "num_processes"),
            (ARGUMENTS | {"optim": "adamx"}, "optim: There is no optimizer"),
            (ARGUMENTS | {"fsdp": "some_shard"}, "fsdp must be of full_shard"),
            (ARGUMENTS | {"deepspeed": "nowhere.json"}, "there is no such file"),
            ({"finetuning_type": "oft"}, "oft has no formula"),
            ({"finetuning_type": "lora", "quantization_bit": 3}, "be 4 or 8"),
            ({"use_peft": True, "dtype": "int4"}, "dtype must be one of"),
            ({"unheard": "of"}, "is of no format"),
        ],
    )
    def test_what_has_no_formula_is_answered_with_file_and_key(
        self, reads, document, problem
    ):
        with pytest.raises((ConfigError, PlanError), match=rf"0\.yaml.*{problem}"):
            reads(document)


class TestNamedFiles:
    def test_are_looked_for_here_before_beside(self, reads, tmp_path):
        folder = tmp_path / "configs"
        folder.mkdir()
        file = folder / "train.yaml"
        file.write_text(yaml.safe_dump(ARGUMENTS | {"deepspeed": "zero.json"}))
        (folder / "zero.json").write_text(json.dumps(ENGINE))
        beside = read_files([file])
        assert beside.fields["zero_stage"] == 2
        assert beside.files[0].line.endswith(f"with {folder / 'zero.json'}")
        other = ENGINE | {"zero_optimization": {"stage": 3}}
        (tmp_path / "zero.json").write_text(json.dumps(other))
        here = read_files([file])
        assert here.fields["zero_stage"] == 3
        assert here.files[0].line.endswith("with zero.json")

    def test_that_are_none_of_deepspeed_are_refused(self, reads):
        with pytest.raises(ConfigError, match=r"other\.json is no configuration of"):
            reads(ARGUMENTS | {"deepspeed": "other.json"}, other={"a": 1})


ADAPTED = {"model_name_or_path": "gpt2", "output_dir": "out", "bf16": True}
ADAPTED |= {"per_device_train_batch_size": 2, "optim": "adamw_torch_fused"}
ADAPTED |= {"gradient_accumulation_steps": 1, "max_grad_norm": 1.0}
SAME = {
    "FSDP2 by accelerate, and by the Trainer": (
        [ARGUMENTS, FSDP],
        [ARGUMENTS | {"fsdp": True}, MULTI_GPU | {"num_processes": 8}],
    ),
    "stages of DeepSpeed inline, and in its own file": (
        [
            {k: v for k, v in ARGUMENTS.items() if k != "bf16"},
            MULTI_GPU
            | {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 2}},
        ],
        [ENGINE | {"bf16": {"enabled": True}}, ARGUMENTS],
    ),
    "checkpointing in either spelling": (
        [ARGUMENTS | {"gradient_checkpointing": True}],
        [ARGUMENTS | {"activation_checkpointing": True}],
    ),
    "FSDP as a switch, and in words": (
        [ARGUMENTS | {"fsdp": True, "fsdp_config": {"cpu_offload": True}}],
        [ARGUMENTS | {"fsdp": "full_shard auto_wrap offload"}],
    ),
    "adapters by LLaMA-Factory, and by TRL": (
        [
            ADAPTED
            | {"finetuning_type": "lora", "lora_target": "c_attn", "cutoff_len": 512}
            | {"lora_rank": 8, "lora_dropout": 0.0, "flash_attn": "sdpa"}
            | {"disable_gradient_checkpointing": True}
        ],
        [
            ADAPTED
            | {"use_peft": True, "lora_target_modules": ["c_attn"], "max_length": 512}
            | {"lora_r": 8, "lora_dropout": 0.0, "attn_implementation": "sdpa"}
            | {"dtype": "bfloat16", "gradient_checkpointing": False}
        ],
    ),
}


@pytest.mark.parametrize("pair", SAME.values(), ids=SAME)
def test_files_that_mean_the_same_have_the_same_report_to_the_byte(reads, pair):
    reports = []
    for documents in pair:
        asked = reads(*documents, flags={"num_gpus": 8, "model": "gpt2"})
        plan = TrainingPlan(**asked.fields)
        reports.append(to_json(asked.onto(estimate(plan))))
    assert reports[0] == reports[1]
