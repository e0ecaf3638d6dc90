"""Quantization configs of bitsandbytes, alone and in a config.json, in and out."""

import json

import config_laws as laws
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memplan.errors import ConfigError
from memplan.formulas.weights import quantized_bytes
from memplan.inputs.configs.bitsandbytes import BITSANDBYTES, KNOWN
from memplan.inputs.configs.documents import load, parse
from memplan.inputs.configs.editing import dumped
from memplan.plan import TrainingPlan

FILES = laws.files("bitsandbytes")
NF4 = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_compute_dtype": "bfloat16",
}


def read(**keys):
    return BITSANDBYTES.read(laws.source(keys))


def read_real(name):
    file = laws.DATA / "bitsandbytes" / f"{name}.json"
    return BITSANDBYTES.read(laws.source(load(file), file))


def listed(reading):
    return [line.split(":")[0] for line in reading.not_read]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
class TestRealFiles:
    def test_are_known_and_come_back(self, file):
        assert BITSANDBYTES.knows(load(file))
        if "gptq" not in file.name:
            laws.stays(BITSANDBYTES, file)

    def test_survive_any_wrong_value(self, file):
        for document in laws.broken(file):
            laws.survives(BITSANDBYTES, document)


class TestVersions:
    def test_int8(self):
        reading = read_real("int8-4.30")
        assert reading.fields == {"quantization": "int8"}
        assert not reading.not_read

    def test_nf4_with_double_quantization(self):
        reading = read_real("nf4-4.38")
        assert reading.fields == {"quantization": "nf4"}
        assert listed(reading) == ["bnb_4bit_use_double_quant"]

    def test_fp4_is_as_large_as_nf4(self):
        reading = read_real("fp4-5.23")
        assert reading.fields == {"quantization": "nf4"}
        assert listed(reading) == [
            "bnb_4bit_quant_type",
            "bnb_4bit_compute_dtype",
            "llm_int8_skip_modules",
        ]

    def test_in_a_config_of_a_model_it_names_the_model(self):
        reading = read_real("model-4.45")
        file = laws.DATA / "bitsandbytes" / "model-4.45.json"
        assert reading.fields == {"model": str(file), "quantization": "nf4"}
        assert not reading.not_read

    def test_other_methods_are_listed(self):
        reading = read_real("gptq-4.35")
        assert "quantization" not in reading.fields
        assert listed(reading) == ["quantization_config.quant_method"]


def test_the_formula_has_no_double_quantization():
    """4 bytes for each 64 elements; double quantization has about half a byte."""
    rows, columns = 4096, 4096
    size = quantized_bytes("nf4", (rows, columns))
    assert size == rows * columns // 2 + 4 * rows * columns // 64 + 64


class TestWhatItSays:
    def test_switches_that_are_off_give_way(self):
        reading = read(load_in_4bit=False, load_in_8bit=False)
        assert reading.fields == {"quantization": "none"}
        assert reading.supposed == {"quantization"}

    def test_four_bits_are_fp4_by_default(self):
        assert "bnb_4bit_quant_type" in listed(read(load_in_4bit=True))

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("bnb_4bit_quant_storage", "bfloat16"),
            ("llm_int8_skip_modules", ["vision"]),
            ("llm_int8_enable_fp32_cpu_offload", True),
            ("bnb_4bit_compute_dtype", "float16"),
            ("bnb_4bit_blocksize", 128),
            ("something_new", 3),
        ],
    )
    def test_what_moves_memory_is_listed(self, key, value):
        assert not read(**NF4).not_read
        assert listed(read(**NF4 | {key: value})) == [key]

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("load_in_4bit", "yes"),
            ("bnb_4bit_quant_type", "int4"),
            ("quant_method", 4),
        ],
    )
    def test_a_wrong_value_is_told_with_its_key(self, key, value):
        with pytest.raises(ConfigError, match=f"{key} must"):
            read(**NF4 | {key: value})

    def test_a_file_of_the_trainer_is_not_one(self):
        document = {"model_name_or_path": "gpt2", "load_in_4bit": True}
        assert not BITSANDBYTES.knows(document)


@laws.patient
@given(
    quantization=st.sampled_from(["none", "int8", "nf4"]),
    precision=st.sampled_from(["bf16-mixed", "bf16-pure", "fp32", "fp16-mixed"]),
    document=st.sampled_from([{}, {"quantization_config": {}}]),
)
def test_a_plan_comes_back(quantization, precision, document):
    plan = TrainingPlan(
        model="gpt2", trainable="lora", quantization=quantization, precision=precision
    )
    laws.comes_back(BITSANDBYTES, plan, said=("quantization",), document=document)


@laws.patient
@given(
    document=st.dictionaries(
        st.sampled_from([*sorted(KNOWN), "quantization_config", "model_type"]),
        st.sampled_from(laws.WRONG) | st.text(max_size=8),
    )
)
def test_hostile_files_are_survived(document):
    laws.survives(BITSANDBYTES, document)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_transformers_loads_what_is_written(quantization):
    transformers = pytest.importorskip("transformers")
    plan = TrainingPlan(model="gpt2", trainable="lora", quantization=quantization)
    text = dumped(BITSANDBYTES.keys_of(plan, {}), ".json")
    config = transformers.BitsAndBytesConfig(**json.loads(text))
    assert config.load_in_4bit == (quantization == "nf4")
    assert config.load_in_8bit == (quantization == "int8")
    if quantization == "nf4":
        assert config.quantization_method() == "nf4"
        assert str(config.bnb_4bit_compute_dtype) == "torch.bfloat16"


@pytest.mark.slow
def test_what_transformers_writes_is_read():
    transformers = pytest.importorskip("transformers")
    config = transformers.BitsAndBytesConfig(**NF4)
    document = parse(config.to_json_string(), ".json")
    assert BITSANDBYTES.knows(document)
    reading = BITSANDBYTES.read(laws.source(document))
    assert reading.fields == {"quantization": "nf4"}
    assert not reading.not_read
