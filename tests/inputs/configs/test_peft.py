"""PEFT's adapter_config.json of all versions, in and out, and loaded by PEFT."""

import json

import config_laws as laws
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memplan.errors import ConfigError
from memplan.formulas.setting import ALL_LINEAR
from memplan.inputs.configs.documents import load, parse
from memplan.inputs.configs.editing import dumped
from memplan.inputs.configs.peft import PEFT
from memplan.plan import TrainingPlan

FILES = laws.files("peft")
LORA = [file for file in FILES if "prompt" not in file.name]


def read(**keys):
    return PEFT.read(laws.source({"peft_type": "LORA"} | keys))


def read_real(name):
    return PEFT.read(laws.source(load(laws.DATA / "peft" / f"{name}.json")))


def listed(reading):
    return [line.split(":")[0] for line in reading.not_read]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
class TestRealFiles:
    def test_are_known_and_come_back(self, file):
        assert PEFT.knows(load(file))
        laws.stays(PEFT, file)

    def test_survive_any_wrong_value(self, file):
        for document in laws.broken(file):
            laws.survives(PEFT, document)


@pytest.mark.parametrize("file", LORA, ids=lambda file: file.name)
@pytest.mark.parametrize(
    "change", [{"lora_rank": 128}, {"lora_targets": ("k_proj",)}], ids=str
)
def test_files_change_where_a_plan_does(file, change):
    different, gone = laws.changes(PEFT, file, **change)
    assert len(different) == 1
    assert not gone


class TestVersions:
    def test_0_3_names_its_layers(self):
        reading = read_real("lora-0.3")
        assert reading.fields == {
            "model": "llama-2-7b",
            "trainable": "lora",
            "lora_rank": 8,
            "lora_dropout": 0.05,
            "lora_targets": ("q_proj", "k_proj", "v_proj", "o_proj"),
        }
        assert not reading.not_read

    def test_0_9_lists_what_no_field_says(self):
        reading = read_real("dora-0.9")
        assert reading.fields["lora_targets"] == ("v_proj", "q_proj")
        assert set(listed(reading)) == {
            "bias",
            "layers_to_transform",
            "modules_to_save",
            "rank_pattern",
            "use_dora",
        }

    def test_other_kinds_are_listed_with_their_model(self):
        reading = read_real("prompt-tuning-0.11")
        assert reading.fields == {"model": "gpt2"}
        assert listed(reading) == ["peft_type"]

    def test_0_19_may_have_a_pattern(self):
        reading = read_real("lora-pattern-0.19")
        assert "lora_targets" not in reading.fields
        assert listed(reading) == ["target_modules"]

    def test_0_21_takes_all_linear_layers(self):
        reading = read_real("lora-0.21")
        assert reading.fields["lora_targets"] == (ALL_LINEAR,)
        assert reading.fields["lora_rank"] == 64
        assert not reading.not_read


class TestTargets:
    @pytest.mark.parametrize(
        ("pattern", "targets"),
        [
            (r".*\.(q_proj|v_proj)", ("q_proj", "v_proj")),
            (r".*\.(?:q_proj|v_proj)$", ("q_proj", "v_proj")),
            (r".*q_proj", ("q_proj",)),
            ("all-linear", (ALL_LINEAR,)),
        ],
    )
    def test_a_pattern_may_be_a_list_of_names(self, pattern, targets):
        assert read(target_modules=pattern).fields["lora_targets"] == targets

    @pytest.mark.parametrize("pattern", ["q_proj", ".*q|v", r".*layers\.[0-3]\.q"])
    def test_another_is_listed_and_never_run(self, pattern):
        assert listed(read(target_modules=pattern)) == ["target_modules"]

    @pytest.mark.parametrize("value", [3, [1], {"q": 1}, True])
    def test_anything_else_is_told(self, value):
        with pytest.raises(ConfigError, match="target_modules must"):
            read(target_modules=value)

    def test_a_pattern_stays_where_it_says_the_same(self):
        document = {"peft_type": "LORA", "target_modules": ".*q_proj"}
        plan = TrainingPlan(model="gpt2", trainable="lora", lora_targets=("q_proj",))
        assert PEFT.keys_of(plan, document)["target_modules",] == ".*q_proj"


def test_a_revision_keeps_the_hub_id():
    reading = read(base_model_name_or_path="gpt2", revision="main")
    assert (reading.fields["model"], reading.fields["revision"]) == ("gpt2", "main")


@st.composite
def plans(draw):
    """Plans with adapters."""
    revision = draw(st.sampled_from([None, "main"]))
    models = ["some/model", "./here"] + ["llama-2-7b", "gpt2"] * (revision is None)
    names = st.sampled_from(["q_proj", "v_proj", "mlp.up_proj"])
    targets = st.just([ALL_LINEAR]) | st.lists(names, unique=True)
    return TrainingPlan(
        model=draw(st.sampled_from(models)),
        revision=revision,
        trainable="lora",
        lora_rank=draw(st.integers(1, 2**20)),
        lora_dropout=draw(st.floats(0, 0.99)),
        lora_targets=tuple(draw(targets)),
    )


@laws.patient
@given(plan=plans())
def test_a_plan_comes_back(plan):
    said = ("model", "trainable", "lora_rank", "lora_dropout", "lora_targets")
    laws.comes_back(PEFT, plan, said=said)


@laws.patient
@given(
    document=st.dictionaries(
        st.sampled_from(sorted({key for file in FILES for key in load(file)})),
        st.sampled_from(laws.WRONG) | st.text(max_size=8),
    )
)
def test_hostile_files_are_survived(document):
    laws.survives(PEFT, document)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("targets", "loaded"),
    [
        (("q_proj", "v_proj"), {"q_proj", "v_proj"}),
        ((ALL_LINEAR,), ALL_LINEAR),
        ((), None),
    ],
)
def test_peft_loads_what_is_written(tmp_path, targets, loaded):
    peft = pytest.importorskip("peft")
    plan = TrainingPlan(
        model="llama-3.1-8b",
        trainable="lora",
        lora_rank=32,
        lora_dropout=0.1,
        lora_targets=targets,
    )
    text = dumped(PEFT.keys_of(plan, {}), ".json")
    (tmp_path / "adapter_config.json").write_text(text)
    config = peft.LoraConfig.from_pretrained(str(tmp_path))
    assert (config.r, config.lora_dropout) == (32, 0.1)
    assert config.target_modules == loaded
    assert config.base_model_name_or_path == "meta-llama/Llama-3.1-8B"


@pytest.mark.slow
def test_what_peft_writes_is_read(tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], use_rslora=True)
    config.save_pretrained(str(tmp_path))
    text = (tmp_path / "adapter_config.json").read_text()
    assert json.loads(text)["peft_version"]
    reading = PEFT.read(laws.source(parse(text, ".json")))
    assert reading.fields["lora_targets"] == ("q_proj",)
    assert reading.fields["lora_rank"] == 4
    assert not reading.not_read
