"""torchtune's YAML since before its first release, in and out."""

import copy
import sys

import config_laws as laws
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memplan.errors import ConfigError
from memplan.inputs.configs.documents import load, parse
from memplan.inputs.configs.torchtune import TORCHTUNE
from memplan.inputs.configs.torchtune_keys import MLP, OPTIMIZERS, OUTPUT, PRESETS
from memplan.plan import TrainingPlan

FILES = laws.files("torchtune")
OF_ARGUMENTS = {"cross_entropy_chunks", "optim", "seq_len"}


def read(text):
    return TORCHTUNE.read(laws.source(parse(text, ".yaml")))


def read_real(name):
    return TORCHTUNE.read(laws.source(load(laws.DATA / "torchtune" / f"{name}.yaml")))


def listed(reading):
    return [line.split(":")[0] for line in reading.not_read]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
class TestRealFiles:
    def test_are_known_and_come_back(self, file):
        assert TORCHTUNE.knows(load(file))
        laws.stays(TORCHTUNE, file)

    @pytest.mark.parametrize(
        "change",
        [
            {"per_device_train_batch_size": 7},
            {"activation_checkpointing": "selective"},
            {"activation_checkpointing": "full"},
            {"cross_entropy_chunks": 1},
            {"cross_entropy_chunks": 4},
            {"torch_compile": True},
            {"precision": "fp32"},
            {"optim": "paged_adamw_8bit"},
            {"seq_len": 1024},
            {"max_grad_norm": 1.0},
        ],
        ids=str,
    )
    def test_change_where_a_plan_does(self, file, change):
        said = TORCHTUNE.read(laws.source(load(file))).fields
        if change.items() <= said.items():
            pytest.skip("It says so already.")
        if "alpha" in file.name and change.keys() & OF_ARGUMENTS:
            pytest.skip("Components took no arguments then.")
        if "cross_entropy_chunks" in change and said.get("zero_stage"):
            pytest.skip("Beside weights in shards parts have no formula.")
        laws.changes(TORCHTUNE, file, **change)

    @pytest.mark.parametrize(
        "change", [{"optim": "rmsprop_bnb"}, {"precision": "fp16-mixed"}], ids=str
    )
    def test_stay_where_there_is_no_word_for_it(self, file, change):
        laws.leaves(TORCHTUNE, file, **change)

    def test_survive_any_wrong_value(self, file):
        for document in laws.broken(file):
            laws.survives(TORCHTUNE, document)


class TestVersions:
    def test_before_the_first_release_components_had_names_alone(self):
        reading = read_real("llama2-7b-full-alpha")
        assert reading.fields["model"] == "llama-2-7b"
        assert reading.fields["optim"] == "sgd"
        assert reading.fields["precision"] == "fp32"
        assert reading.fields["cross_entropy_chunks"] == 1
        assert not reading.not_read

    def test_a_model_without_a_preset_is_left_open(self):
        reading = read_real("code-llama2-7b-full")
        assert "model" not in reading.fields
        assert "model" in reading.open_fields
        assert reading.fields["optim"] == "paged_adamw_32bit"
        assert "optimizer_in_bwd" in listed(reading)

    def test_qlora_is_in_the_name_of_the_model(self):
        reading = read_real("llama3.1-8b-qlora")
        assert reading.fields | {
            "model": "llama-3.1-8b",
            "trainable": "lora",
            "quantization": "nf4",
            "lora_rank": 8,
            "lora_dropout": 0.0,
            "lora_targets": ("q_proj", "v_proj", "k_proj", "o_proj", *MLP),
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 16,
            "precision": "bf16-pure",
            "optim": "adamw_fused",
            "activation_checkpointing": "full",
            "cross_entropy_chunks": 8,
            "max_grad_norm": 0.0,
        } == (reading.fields)
        assert reading.open_fields == {"num_gpus", "zero_stage", "seq_len"}

    def test_every_second_layer_may_be_checkpointed(self):
        reading = read_real("llama3-8b-experimental")
        assert reading.fields["activation_checkpointing"] == "every-2"

    def test_several_gpus_shard_by_fsdp2(self):
        reading = read_real("llama3.3-70b-multinode")
        assert reading.fields["zero_stage"] == 3
        assert reading.fields["seq_len"] == 1024
        assert reading.fields["torch_compile"] is True
        assert reading.open_fields == {"num_gpus"}
        assert listed(reading) == [
            "dataset.packed",
            "custom_sharded_layers",
            "loss._component_",
        ]
        # A loss in parts has no formula beside weights in shards.
        assert "cross_entropy_chunks" not in reading.fields


class TestWhatItSays:
    @pytest.mark.parametrize(
        ("text", "optim"),
        [
            ("{_component_: torch.optim.AdamW, fused: True}", "adamw_fused"),
            ("{_component_: torch.optim.AdamW}", "adamw"),
            ("{_component_: torch.optim.AdamW, foreach: False}", "adamw_forloop"),
            ("{_component_: torch.optim.SGD, momentum: 0.9}", "sgd_momentum"),
            ("{_component_: bitsandbytes.optim.PagedAdamW8bit}", "paged_adamw_8bit"),
            ("{_component_: torchao.optim.AdamW4bit}", None),
        ],
    )
    def test_optimizers_are_components(self, text, optim):
        reading = read(f"optimizer: {text}")
        assert reading.fields.get("optim") == optim
        assert ("optim" in reading.open_fields) == (optim is None)

    def test_offload_without_resharding_is_told(self):
        text = """
            optimizer: {_component_: torch.optim.AdamW}
            fsdp_cpu_offload: True
            fsdp_reshard_after_forward: False
        """
        reading = read(text)
        assert reading.fields["zero_stage"] == 2
        assert reading.fields["offload_parameters"] is False
        assert "fsdp_cpu_offload" in listed(reading)

    def test_interpolations_are_not_run_but_listed(self):
        text = """
            optimizer: {_component_: torch.optim.AdamW}
            output_dir: /tmp/${oc.env:HOME}
            batch_size: ${bs}
            tokenizer: {max_seq_len: "${length}"}
        """
        reading = read(text)
        assert listed(reading) == ["batch_size", "tokenizer.max_seq_len"]
        assert "per_device_train_batch_size" not in reading.fields

    def test_components_are_never_imported(self):
        read("model: {_component_: antigravity.fly}\noptimizer: {_component_: this.s}")
        assert not {"antigravity", "this"} & sys.modules.keys()

    def test_norms_that_are_only_logged_are_told(self):
        reading = read("optimizer: {_component_: a}\nclip_grad_norm: inf")
        assert reading.fields["max_grad_norm"] == 1.0
        assert "clip_grad_norm" in listed(reading)

    @pytest.mark.parametrize(
        "line",
        ["dtype: fp16", "batch_size: two", "batch_size: 0", "compile: 3", "dtype: 1"],
    )
    def test_a_wrong_value_is_told_with_its_key(self, line):
        key = line.split(":")[0]
        with pytest.raises(ConfigError, match=f"{key} must"):
            read(f"optimizer: {{_component_: torch.optim.AdamW}}\n{line}")

    def test_what_moves_memory_is_listed(self):
        text = """
            model: {_component_: torchtune.models.llama2.llama2_7b, new: 3}
            optimizer: {_component_: torch.optim.AdamW, amsgrad: True}
            loss: {_component_: torchtune.rlhf.loss.DPOLoss}
            surprise: [1]
        """
        assert set(listed(read(text))) == {
            "model.new",
            "optimizer.amsgrad",
            "loss._component_",
            "surprise",
        }


@st.composite
def plans(draw):
    """Plans that a recipe's configuration can say."""
    adapters = {}
    if draw(st.booleans()):
        attention = st.sampled_from(["q_proj", "k_proj", "v_proj", "o_proj"])
        targets = draw(st.lists(attention, unique=True))
        if targets:
            targets += [*MLP] * draw(st.booleans()) + [OUTPUT] * draw(st.booleans())
        adapters = {
            "trainable": "lora",
            "quantization": draw(st.sampled_from(["none", "nf4"])),
            "lora_rank": draw(st.integers(1, 256)),
            "lora_dropout": draw(st.floats(0, 0.9)),
            "lora_targets": tuple(targets),
        }
    stage = draw(st.sampled_from([0, 2, 3]))
    offloads = stage == 3 and draw(st.booleans())
    tensor, context = (draw(st.sampled_from([1, 2])) for _ in range(2))
    chunks = 1 if stage else draw(st.integers(1, 16))
    return TrainingPlan(
        model=draw(st.sampled_from(sorted(set(PRESETS.values())))),
        per_device_train_batch_size=draw(st.integers(1, 64)),
        gradient_accumulation_steps=draw(st.integers(1, 64)),
        seq_len=draw(st.integers(1, 2**20)),
        max_grad_norm=draw(st.floats(0, 10)),
        precision=draw(st.sampled_from(["bf16-pure", "fp32"])),
        optim=draw(
            st.sampled_from(
                [*OPTIMIZERS.values(), "adamw_fused", "adamw_forloop", "sgd_momentum"]
            )
        ),
        activation_checkpointing=draw(
            st.sampled_from(["none", "full", "selective", "every-2"])
        ),
        offload_activations=draw(st.booleans()),
        cross_entropy_chunks=chunks,
        torch_compile=draw(st.booleans()),
        num_gpus=8,
        tensor_parallel=tensor,
        context_parallel=context,
        zero_stage=stage,
        offload_parameters=offloads,
        offload_optimizer=offloads,
        **adapters,
    )


SAID = (
    *("model", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("seq_len", "max_grad_norm", "precision", "optim", "activation_checkpointing"),
    *("offload_activations", "torch_compile"),
)


@laws.patient
@given(plan=plans())
def test_a_plan_comes_back(plan):
    adapters = ("trainable", "quantization", "lora_rank", "lora_dropout")
    said = SAID + (adapters if plan.trainable == "lora" else ())
    said += ("zero_stage", "offload_parameters") if plan.zero_stage else ()
    laws.comes_back(TORCHTUNE, plan, said=said)


@laws.patient
@given(data=st.data())
def test_hostile_recipes_are_survived(data):
    values = st.recursive(
        st.sampled_from(laws.WRONG) | st.text(max_size=5) | st.integers(),
        lambda inner: st.lists(inner, max_size=2),
        max_leaves=3,
    )
    document = copy.deepcopy(load(data.draw(st.sampled_from(FILES))))
    for key in list(document):
        if data.draw(st.integers(0, 4)) == 0:
            document[key] = data.draw(values)
    laws.survives(TORCHTUNE, document)
