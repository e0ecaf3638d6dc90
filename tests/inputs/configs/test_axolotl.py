"""Axolotl's YAML from 2023 on, in and out."""

import copy

import config_laws as laws
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memplan.errors import ConfigError
from memplan.formulas.setting import ALL_LINEAR
from memplan.inputs.configs.axolotl import AXOLOTL
from memplan.inputs.configs.axolotl_keys import searched
from memplan.inputs.configs.documents import load, parse
from memplan.inputs.configs.names import OPTIMIZERS
from memplan.inputs.configs.reading import source_of
from memplan.plan import TrainingPlan

FILES = laws.files("axolotl")
BASE = "base_model: meta-llama/Llama-3.1-8B\nmicro_batch_size: 1\n"


def read(text):
    return AXOLOTL.read(laws.source(parse(BASE + text, ".yaml")))


def read_real(name):
    return AXOLOTL.read(source_of(laws.DATA / "axolotl" / f"{name}.yml"))


def listed(reading):
    return [line.split(":")[0] for line in reading.not_read]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
class TestRealFiles:
    def test_are_known_and_come_back(self, file):
        assert AXOLOTL.knows(load(file))
        laws.stays(AXOLOTL, file)

    @pytest.mark.parametrize(
        "change",
        [
            {"per_device_train_batch_size": 7},
            {"gradient_accumulation_steps": 5},
            {"activation_checkpointing": "every-3"},
            {"activation_checkpointing": "full", "offload_activations": True},
            {"cross_entropy_chunks": 4},
            {"torch_compile": True},
            {"attn_implementation": "auto"},
            {"attn_implementation": "efficient"},
            {"optim": "paged_adamw_8bit"},
            {"seq_len": 1024},
        ],
        ids=str,
    )
    def test_change_where_a_plan_does(self, file, change):
        said = AXOLOTL.read(source_of(file)).fields
        if change.items() <= said.items():
            pytest.skip("It says so already.")
        if "cross_entropy_chunks" in change and said.get("zero_stage"):
            pytest.skip("Beside weights in shards parts have no formula.")
        laws.changes(AXOLOTL, file, **change)

    @pytest.mark.parametrize(
        "change",
        [
            {"optim": "sgd_momentum"},
            {"attn_implementation": "math"},
            {"precision": "fp16-master"},
            {"activation_checkpointing": "selective"},
        ],
        ids=str,
    )
    def test_stay_where_there_is_no_word_for_it(self, file, change):
        laws.leaves(AXOLOTL, file, **change)

    def test_survive_any_wrong_value(self, file):
        for document in laws.broken(file):
            laws.survives(AXOLOTL, document)


class TestVersions:
    def test_of_2023_counts_both_batches(self):
        reading = read_real("gptq-7b-2023")
        assert reading.fields["gradient_accumulation_steps"] == 1
        assert reading.fields["quantization"] == "int8"
        assert {"load_4bit", "gptq_groupsize", "tokens"} <= set(listed(reading))

    def test_0_4_names_attention_by_switches(self):
        reading = read_real("llama-2-lora")
        assert reading.fields == {
            "model": "NousResearch/Llama-2-7b-hf",
            "trainable": "lora",
            "lora_rank": 32,
            "lora_dropout": 0.05,
            "lora_targets": (ALL_LINEAR,),
            "quantization": "int8",
            "precision": "bf16-mixed",
            "frozen_dtype": "bf16",
            "optim": "adamw_8bit",
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 4,
            "seq_len": 4096,
            "max_grad_norm": 1.0,
            "activation_checkpointing": "full",
            "offload_activations": False,
            "attn_implementation": "flash",
            "torch_compile": False,
            "tensor_parallel": 1,
            "context_parallel": 1,
        }
        assert not reading.not_read

    def test_a_file_of_deepspeed_is_read_with_it(self):
        reading = read_real("mixtral-qlora")
        assert reading.fields["sharding"] == "deepspeed"
        assert reading.fields["zero_stage"] == 2
        assert reading.fields["offload_optimizer"] is True
        assert reading.fields["model"] == "mixtral-8x7b"
        assert [file.name for file in reading.files] == ["zero2.json"]
        # What it leaves to the Trainer, Axolotl says.
        assert reading.open_fields - reading.fields.keys() == {"num_gpus"}

    def test_0_6_shards_by_fsdp1(self):
        reading = read_real("llama-3-qlora-fsdp")
        assert reading.fields["zero_stage"] == 3
        assert reading.fields["offload_parameters"] is True
        assert reading.fields["quantization"] == "nf4"
        assert listed(reading) == [
            "FSDP1",
            "bnb_config_kwargs.bnb_4bit_use_double_quant",
        ]

    def test_0_8_may_prefer(self):
        reading = read_real("llama-3-dpo-lora")
        assert listed(reading) == ["rl"]

    def test_0_11_has_fsdp2_float8_and_liger(self):
        reading = read_real("llama-3-fp8-fsdp2")
        assert reading.fields["activation_checkpointing"] == "full"
        assert reading.fields["precision"] == "bf16-mixed"
        assert {"plugins", "liger_rope", "fp8", "flex_attention"} <= set(
            listed(reading)
        )

    def test_0_12_says_how_many_gpus(self):
        reading = read_real("llama-3.1-hsdp-tp")
        assert reading.fields["num_gpus"] == 4 * 2
        assert reading.fields["tensor_parallel"] == 2
        assert listed(reading) == ["dp_replicate_size", "plugins"]
        assert not reading.open_fields


FSDP = "fsdp_version: 2\nfsdp_config: {offload_params: false}\n"
LORA = "adapter: lora\n"


class TestPrecision:
    """Weights are loaded in what autocast casts to (`resolve_dtype`)."""

    @pytest.mark.parametrize(
        ("text", "precision"),
        [
            ("bf16: auto", "bf16-pure"),
            ("bf16: true", "bf16-pure"),
            (f"{FSDP}bf16: auto", "bf16-mixed"),  # accelerate keeps what trains in fp32
            (f"{FSDP}bf16: full", "bf16-pure"),
            (f"{LORA}bf16: true", "bf16-mixed"),  # PEFT keeps adapters in fp32
            (f"{LORA}bf16: full", "bf16-pure"),
            (f"{LORA}bf16: auto\nfp16: true", "fp16-mixed"),
            (f"{LORA}fp16: true\nbf16: false", "fp16-mixed"),
            ("bf16: false\ntf32: true", "tf32"),
            ("bf16: false", "fp32"),
        ],
    )
    def test_of_words(self, text, precision):
        assert read(text).fields["precision"] == precision

    def test_of_full_fp16_there_is_none(self):
        assert "fp16" in listed(read("bf16: false\nfp16: true"))

    def test_a_frozen_base_is_in_the_same(self):
        assert read(f"{LORA}bf16: true").fields["frozen_dtype"] == "bf16"
        assert "frozen_dtype" not in read("bf16: true").fields


class TestWhatItSays:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("gradient_checkpointing: offload", ("full", True)),
            ("gradient_checkpointing: true", ("full", False)),
            (
                "gradient_checkpointing: true\n"
                "gradient_checkpointing_kwargs: {every_n_layers: 4}",
                ("every-4", False),
            ),
            (
                "gradient_checkpointing: true\nactivation_offloading: true",
                ("full", True),
            ),
        ],
    )
    def test_checkpoints(self, text, said):
        fields = read(text).fields
        assert (
            fields["activation_checkpointing"],
            fields["offload_activations"],
        ) == said

    def test_two_ways_to_shard_are_one(self):
        """FSDP1 by a list and by a strategy; FSDP2 with and without `fsdp_`."""
        ways = (
            "fsdp: [full_shard, auto_wrap, offload]",
            "fsdp_config: {fsdp_sharding_strategy: FULL_SHARD, "
            "fsdp_offload_params: true}",
            "fsdp_config: {fsdp_version: 2, fsdp_reshard_after_forward: true, "
            "fsdp_offload_params: true}",
            "fsdp_version: 2\nfsdp_config: {reshard_after_forward: true, "
            "offload_params: true}",
        )
        first, *others = (read(way).fields for way in ways)
        assert all(other == first for other in others)
        assert first["offload_parameters"] is True

    def test_a_dictionary_of_deepspeed_may_stand_inside(self):
        inside = read("deepspeed: {zero_optimization: {stage: 3}}").fields
        assert (inside["sharding"], inside["zero_stage"]) == ("deepspeed", 3)

    def test_a_file_that_is_not_there_is_told(self):
        with pytest.raises(ConfigError, match=r"zero9\.json"):
            read("deepspeed: zero9.json")

    def test_unfrozen_parameters_are_matched_from_their_beginning(self):
        text = """
unfrozen_parameters:
  - ^lm_head.weight$
  - ^model.embed_tokens.weight$[:32000]
  - model.layers
"""
        reading = read(text)
        assert reading.fields["trainable"] == (
            "^lm_head.weight$,^model.embed_tokens.weight,^model.layers"
        )
        assert listed(reading) == ["unfrozen_parameters"]

    @pytest.mark.parametrize(
        ("pattern", "found"), [("^a", "^a"), ("a", "^a"), (".*a", "a")]
    )
    def test_matching_is_searching_from_the_beginning(self, pattern, found):
        assert searched(pattern) == found

    def test_an_optimizer_without_a_formula_is_left_open(self):
        reading = read("optimizer: muon")
        assert "optim" not in reading.fields
        assert "optim" in reading.open_fields
        assert listed(reading) == ["optimizer"]

    def test_other_adapters_are_listed(self):
        reading = read("adapter: llama-adapter\nlora_r: 8")
        assert "trainable" not in reading.fields
        assert "adapter" in listed(reading)

    @pytest.mark.parametrize(
        "line",
        [
            "bf16: maybe",
            "gradient_accumulation_steps: 1.5",
            "lora_r: none",
            "gradient_checkpointing: 3",
            "fsdp: 3",
            "activation_offloading: 3",
        ],
    )
    def test_a_wrong_value_is_told_with_its_key(self, line):
        key = line.split(":")[0]
        with pytest.raises(ConfigError, match=f"{key} must"):
            read(line)

    def test_what_moves_memory_is_listed(self):
        text = """
adapter: lora
peft_use_dora: true
lora_modules_to_save: [embed_tokens]
unfrozen_parameters: [lm_head]
resize_token_embeddings_to_32x: true
surprise: 1
wandb_project: harmless
eval_batch_size: 8
"""
        assert set(listed(read(text))) == {
            "peft_use_dora",
            "lora_modules_to_save",
            "unfrozen_parameters",
            "resize_token_embeddings_to_32x",
            "surprise",
            "eval_batch_size",
        }


NAMED = tuple(sorted({*OPTIMIZERS.values(), "adafactor", "sgd", "paged_adamw_8bit"}))


@st.composite
def plans(draw):
    """Plans that a configuration of Axolotl can say."""
    stage = draw(st.sampled_from([0, 2, 3]))
    engine = draw(st.sampled_from(["fsdp2", "deepspeed"])) if stage else "fsdp2"
    offloads = stage == 3 and draw(st.booleans())
    trained = draw(st.sampled_from(["default", "lora", "^lm_head,mlp"]))
    kept = stage > 0 or trained == "lora"
    if engine == "deepspeed":
        precision = "bf16-mixed"
    elif kept:
        precision = draw(
            st.sampled_from(["bf16-mixed", "bf16-pure", "fp16-mixed", "fp32", "tf32"])
        )
    else:
        precision = draw(st.sampled_from(["bf16-pure", "fp32", "tf32"]))
    adapters = {}
    if trained == "lora":
        quantization = draw(st.sampled_from(["none", "nf4", "int8"]))
        frozen = {"bf16": "bf16", "fp16": "fp16"}.get(precision[:4], "fp32")
        if frozen == "fp32" and quantization == "int8":
            frozen = "fp16"
        adapters = {
            "lora_rank": draw(st.integers(1, 256)),
            "lora_dropout": draw(st.floats(0, 0.9)),
            "lora_targets": draw(
                st.sampled_from([(), (ALL_LINEAR,), ("q_proj", "v_proj"), ("mlp.up",)])
            ),
            "quantization": quantization,
            "frozen_dtype": frozen,
        }
    tensor, context = (draw(st.sampled_from([1, 2])) for _ in range(2))
    chunks = 1 if stage else draw(st.integers(1, 16))
    return TrainingPlan(
        model=draw(st.sampled_from(["llama-2-7b", "gpt2", "some/model", "./here"])),
        per_device_train_batch_size=draw(st.integers(1, 64)),
        gradient_accumulation_steps=draw(st.integers(1, 64)),
        seq_len=draw(st.integers(1, 2**20)),
        max_grad_norm=draw(st.floats(0, 10)),
        precision=precision,
        optim=draw(st.sampled_from(NAMED)),
        activation_checkpointing=draw(st.sampled_from(["none", "full", "every-2"])),
        offload_activations=draw(st.booleans()),
        attn_implementation=draw(
            st.sampled_from(["auto", "eager", "flash", "efficient"])
        ),
        cross_entropy_chunks=chunks,
        torch_compile=draw(st.booleans()),
        num_gpus=8,
        tensor_parallel=tensor,
        context_parallel=context,
        sharding=engine,
        zero_stage=stage,
        offload_parameters=offloads,
        offload_optimizer=offloads,
        trainable=trained,
        **adapters,
    )


SAID = (
    *("model", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("seq_len", "max_grad_norm", "precision", "optim", "activation_checkpointing"),
    *("offload_activations", "attn_implementation", "torch_compile"),
    *("tensor_parallel", "context_parallel"),
)


@laws.patient
@given(plan=plans())
def test_a_plan_comes_back(plan):
    said = SAID
    if plan.trainable == "lora":
        said += ("trainable", "quantization", "lora_rank", "lora_targets")
    elif plan.trainable != "default":
        said += ("trainable",)
    if plan.zero_stage:
        said += ("zero_stage", "sharding", "offload_parameters")
    if plan.zero_stage and plan.sharding == "fsdp2":
        said += ("num_gpus",)
    laws.comes_back(AXOLOTL, plan, said=said)


@laws.patient
@given(data=st.data())
def test_hostile_files_are_survived(data):
    values = st.recursive(
        st.sampled_from(laws.WRONG) | st.text(max_size=5) | st.integers(),
        lambda inner: st.lists(inner, max_size=2),
        max_leaves=3,
    )
    document = copy.deepcopy(load(data.draw(st.sampled_from(FILES))))
    for key in list(document):
        if data.draw(st.integers(0, 5)) == 0:
            document[key] = data.draw(values)
    laws.survives(AXOLOTL, document)
