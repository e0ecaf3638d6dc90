"""torchtitan's TOML of three generations, in and out."""

import copy

import config_laws as laws
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memplan.errors import ConfigError
from memplan.inputs.configs.documents import load, parse
from memplan.inputs.configs.reading import read_file
from memplan.inputs.configs.torchtitan import TORCHTITAN
from memplan.inputs.configs.torchtitan_keys import OPTIMIZERS, PRESETS
from memplan.plan import TrainingPlan

FILES = laws.files("torchtitan")
REDUCED = "training.mixed_precision_reduce"


def read(text):
    return TORCHTITAN.read(laws.source(parse(text, ".toml")))


def read_real(name):
    return TORCHTITAN.read(laws.source(load(laws.DATA / "torchtitan" / f"{name}.toml")))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
class TestRealFiles:
    def test_are_known_and_come_back(self, file):
        assert TORCHTITAN.knows(load(file))
        laws.stays(TORCHTITAN, file)

    @pytest.mark.parametrize(
        "change",
        [
            {"per_device_train_batch_size": 3},
            {"activation_checkpointing": "every-4"},
            {"activation_checkpointing": "none"},
            {"zero_stage": 2},
            {"torch_compile": True},
            {"offload_parameters": True, "offload_optimizer": True},
            {"precision": "bf16-pure"},
            {"optim": "adamw"},
            {"seq_len": 1024},
        ],
        ids=str,
    )
    def test_change_where_a_plan_does(self, file, change):
        said = TORCHTITAN.read(laws.source(load(file))).fields
        if change.items() <= said.items():
            pytest.skip("It says so already.")
        laws.changes(TORCHTITAN, file, **change)

    @pytest.mark.parametrize(
        "change",
        [{"optim": "paged_adamw_8bit"}, {"precision": "fp16-mixed"}, {"model": "gpt2"}],
        ids=str,
    )
    def test_stay_where_there_is_no_word_for_it(self, file, change):
        laws.leaves(TORCHTITAN, file, **change)

    def test_survive_any_wrong_value(self, file):
        for document in laws.broken(file):
            laws.survives(TORCHTITAN, document)


class TestVersions:
    def test_0_0_2_has_degrees_among_training(self):
        reading = read_real("llama3-8b-0.0.2")
        assert reading.fields == {
            "model": "llama-3.1-8b",
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 1,
            "seq_len": 8192,
            "max_grad_norm": 1.0,
            "precision": "bf16-mixed",
            "optim": "adamw_fused",
            "activation_checkpointing": "selective",
            "torch_compile": False,
            "sharding": "fsdp2",
            "zero_stage": 3,
            "offload_parameters": False,
            "offload_optimizer": False,
            "tensor_parallel": 1,
            "pipeline_parallel": 1,
            "context_parallel": 1,
            "expert_parallel": 1,
        }
        assert reading.open_fields == {"num_gpus"}

    def test_0_1_converts_to_float8(self):
        reading = read_real("llama3-405b-0.1")
        assert reading.fields["model"] == "llama-3.1-405b"
        assert reading.fields["tensor_parallel"] == 8
        assert reading.fields["sequence_parallel"] is True
        assert reading.fields["torch_compile"] is True
        listed = [line.split(":")[0] for line in reading.not_read]
        assert listed == [
            "model.converters",
            REDUCED,
            "parallelism.enable_async_tensor_parallel",
        ]  # and not float8, which the converter is listed for

    def test_0_2_has_experts(self):
        reading = read_real("deepseek-v3-16b-0.2")
        assert reading.fields["model"] == "deepseek-v2-lite"
        assert reading.fields["per_device_train_batch_size"] == 8
        assert [line.split(":")[0] for line in reading.not_read] == [REDUCED]

    def test_a_model_without_a_preset_is_left_open(self):
        reading = read_real("llama3-debug-0.1")
        assert "model" not in reading.fields
        assert reading.open_fields == {"model", "num_gpus"}
        assert reading.fields["activation_checkpointing"] == "every-2"

    def test_two_spellings_are_one_plan(self):
        old = """
            [job]
            [model]
            flavor = "8B"
            [training]
            batch_size = 2
            compile = true
            data_parallel_shard_degree = 4
            tensor_parallel_degree = 2
            [experimental]
            pipeline_parallel_degree = 1
            context_parallel_degree = 1
            expert_parallel_degree = 1
        """
        new = """
            [job]
            [model]
            name = "llama3"
            flavor = "8B"
            [training]
            local_batch_size = 2
            [compile]
            enable = true
            [parallelism]
            data_parallel_shard_degree = 4
            tensor_parallel_degree = 2
        """
        assert read(old).fields == read(new).fields
        assert read(new).fields["num_gpus"] == 8


def test_python_is_never_run(tmp_path):
    """Later versions are configured in it."""
    file = tmp_path / "config_registry.py"
    file.write_text("raise SystemExit('I was run')")
    with pytest.raises(ConfigError, match="is a program"):
        read_file(file)


class TestWhatItSays:
    def test_what_is_not_there_is_by_default(self):
        reading = read("[model]\n[training]")
        assert reading.fields["per_device_train_batch_size"] == 8
        assert reading.fields["activation_checkpointing"] == "every-2"
        assert {"seq_len", "precision", "zero_stage"} <= reading.fields.keys()
        assert {"seq_len", "precision"} <= reading.supposed

    def test_accumulation_is_what_the_global_batch_leaves(self):
        text = """
            [job]
            [training]
            local_batch_size = 2
            global_batch_size = 64
            [parallelism]
            data_parallel_shard_degree = 8
        """
        assert read(text).fields["gradient_accumulation_steps"] == 64 // (2 * 8)

    def test_without_ranks_accumulation_is_open(self):
        reading = read("[job]\n[training]\nglobal_batch_size = 64")
        assert "gradient_accumulation_steps" in reading.open_fields

    def test_a_pipeline_divides_the_batch(self):
        text = """
            [job]
            [training]
            local_batch_size = 8
            [parallelism]
            data_parallel_shard_degree = 1
            pipeline_parallel_degree = 4
            pipeline_parallel_microbatch_size = 2
            pipeline_parallel_schedule = "Interleaved1F1B"
        """
        reading = read(text)
        assert reading.fields["per_device_train_batch_size"] == 2
        assert reading.fields["gradient_accumulation_steps"] == 4
        assert reading.fields["precision"] == "fp32"  # mixed by FSDP or autocast alone
        assert any("schedule" in line for line in reading.not_read)

    def test_hybrid_sharding_is_one_of_its_groups(self):
        text = """
            [job]
            [training]
            [parallelism]
            data_parallel_shard_degree = 4
            data_parallel_replicate_degree = 2
        """
        reading = read(text)
        assert reading.fields["num_gpus"] == 4
        assert any("replicate" in line for line in reading.not_read)

    @pytest.mark.parametrize(
        ("policy", "pipeline", "stage"),
        [("default", 1, 3), ("default", 2, 2), ("never", 1, 2), ("always", 2, 3)],
    )
    def test_resharding_is_a_stage(self, policy, pipeline, stage):
        text = f"""
            [job]
            [training]
            [parallelism]
            data_parallel_shard_degree = 4
            fsdp_reshard_after_forward = "{policy}"
            pipeline_parallel_degree = {pipeline}
        """
        assert read(text).fields["zero_stage"] == stage

    @pytest.mark.parametrize(
        ("table", "key", "value"),
        [
            ("training", "local_batch_size", '"many"'),
            ("training", "global_batch_size", "7"),
            ("parallelism", "data_parallel_shard_degree", "0"),
            ("parallelism", "tensor_parallel_degree", "true"),
            ("activation_checkpoint", "selective_ac_option", '"some"'),
            ("training", "dtype", '"float16"'),
        ],
    )
    def test_a_wrong_value_is_told_with_its_key(self, table, key, value):
        tables = {"training": "", "parallelism": "data_parallel_shard_degree = 2\n"}
        tables[table] = f"{tables.get(table, '')}{key} = {value}\n"
        if key == "data_parallel_shard_degree":
            tables[table] = f"{key} = {value}\n"
        text = "[job]\n" + "".join(f"[{t}]\n{body}" for t, body in tables.items())
        with pytest.raises(ConfigError, match=f"{table}.{key} must"):
            read(text)

    def test_what_moves_memory_is_listed(self):
        text = """
            surprise = 1
            [job]
            [optimizer]
            early_step_in_backward = true
            [training]
            new_switch = 3
            [validation]
            enable = true
            [more]
            x = 1
        """
        listed = {line.split(":")[0] for line in read(text).not_read}
        assert listed >= {
            "optimizer.early_step_in_backward",
            "training.new_switch",
            "validation.enable",
            "more",
            "surprise",
        }


@st.composite
def plans(draw):
    """Plans that a job can say."""
    tensor, pipeline, context = (draw(st.sampled_from([1, 2, 4])) for _ in range(3))
    stage = draw(st.sampled_from([0, 2, 3]))
    if stage == 0:
        context = 1  # else weights are sharded over its ranks
    data = draw(st.integers(2, 8))
    precisions = ["bf16-pure", "fp32"]
    if stage or tensor * pipeline == 1:
        precisions.append("bf16-mixed")
    offloads = stage == 3 and draw(st.booleans())
    return TrainingPlan(
        model=draw(st.sampled_from(sorted(set(PRESETS.values())))),
        per_device_train_batch_size=draw(st.integers(1, 64)),
        gradient_accumulation_steps=draw(st.integers(1, 16)),
        seq_len=draw(st.integers(1, 2**20)),
        max_grad_norm=draw(st.floats(0, 10)),
        precision=draw(st.sampled_from(precisions)),
        optim=draw(st.sampled_from(sorted(OPTIMIZERS.values()))),
        activation_checkpointing=draw(
            st.sampled_from(["none", "full", "selective", "every-2", "every-7"])
        ),
        torch_compile=draw(st.booleans()),
        num_gpus=data * tensor * pipeline * context,
        zero_stage=stage,
        offload_parameters=offloads,
        offload_optimizer=offloads,
        tensor_parallel=tensor,
        sequence_parallel=tensor > 1,
        pipeline_parallel=pipeline,
        context_parallel=context,
        expert_parallel=data if draw(st.booleans()) else 1,
    )


SAID = (
    *("model", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("seq_len", "max_grad_norm", "precision", "optim", "activation_checkpointing"),
    *("torch_compile", "num_gpus", "zero_stage", "offload_parameters"),
    *("tensor_parallel", "pipeline_parallel", "context_parallel", "expert_parallel"),
)


@laws.patient
@given(plan=plans())
def test_a_plan_comes_back(plan):
    laws.comes_back(TORCHTITAN, plan, said=SAID)


@laws.patient
@given(data=st.data())
def test_hostile_jobs_are_survived(data):
    """Tables and keys that are known, with anything in them."""
    values = st.recursive(
        st.sampled_from(laws.WRONG) | st.text(max_size=5) | st.integers(),
        lambda inner: st.lists(inner, max_size=2),
        max_leaves=3,
    )
    document = copy.deepcopy(load(data.draw(st.sampled_from(FILES))))
    for table in list(document):
        if data.draw(st.integers(0, 9)) == 0:
            document[table] = data.draw(values)
            continue
        for key in list(document[table]):
            if data.draw(st.integers(0, 4)) == 0:
                document[table][key] = data.draw(values)
    laws.survives(TORCHTITAN, document)
