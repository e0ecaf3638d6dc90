"""A changed plan in the user's own files: it comes back, and no other line differs."""

import difflib
import json
import random
import shutil
from dataclasses import fields, replace
from pathlib import Path

import config_laws as laws
import pytest

from memplan.errors import ConfigError, MemplanError
from memplan.inputs.configs.accelerate import ACCELERATE
from memplan.inputs.configs.documents import load, parse
from memplan.inputs.configs.reading import FORMATS, read_file, read_files
from memplan.inputs.configs.writing import FileChange, rewritten, written
from memplan.plan import TrainingPlan

REAL = sorted(f for f in laws.DATA.rglob("*.*") if f.suffix != ".md")
ADAPTERS = [f for f in laws.files("peft") if load(f)["peft_type"] == "LORA"]
CHANGES = (
    {"per_device_train_batch_size": 7},
    {"activation_checkpointing": "full"},
    {"activation_checkpointing": "none"},
    {"optim": "adamw_8bit"},
    {"seq_len": 777},
    {"gradient_accumulation_steps": 3},
    {"trainable": "lora", "quantization": "nf4", "lora_rank": 24},
    {
        "zero_stage": 3,
        "sharding": "deepspeed",
        "num_gpus": 8,
        "offload_optimizer": True,
    },
    {
        "zero_stage": 3,
        "sharding": "fsdp2",
        "num_gpus": 8,
        "offload_optimizer": False,
        "offload_parameters": False,
    },
)


def asked_of(*files):
    """What files say, of a model where they name none."""
    flags = {} if "model" in read_files(files).fields else {"model": "gpt2"}
    return read_files(files, flags)


def copied(folder, file):
    """A real file among all others, which it may name."""
    shutil.copytree(laws.DATA, folder, dirs_exist_ok=True)
    return folder / file.relative_to(laws.DATA)


def write_back(rewriting):
    """As it was."""
    for one in rewriting.changes:
        one.file.write_bytes(one.before.encode())


def leaves(data, path=()):
    if isinstance(data, dict):
        for key, value in data.items():
            yield from leaves(value, (*path, key))
        yield path, "a table"
    else:
        yield path, repr(data)


def keys_that_differ(change):
    """Every part of the places whose values are not the same."""
    suffix = change.file.suffix
    before, after = (
        set(leaves(parse(text, suffix))) for text in (change.before, change.after)
    )
    return {key for path, _ in before ^ after for key in path}


def lines_that_differ(change):
    """Without commas: of JSON, one more key has the line before it end in one."""
    texts = (change.before, change.after)
    old, new = ([line.rstrip(",") for line in text.splitlines()] for text in texts)
    return [line[2:] for line in difflib.ndiff(old, new) if line[0] in "+-"]


@pytest.mark.parametrize("file", REAL, ids=lambda file: file.name)
def test_real_files_say_a_changed_plan_and_keep_their_other_lines(file, tmp_path):
    """read(rewritten(file, plan)) = plan, but for what it says it has no key for."""
    mine = copied(tmp_path, file)
    asked = asked_of(mine)
    try:
        plan = TrainingPlan(**asked.fields)
    except MemplanError:
        pytest.skip("it makes no plan by itself")
    assert rewritten(asked, plan).changes == ()
    for change in CHANGES:
        try:
            wanted = replace(plan, **change)
        except MemplanError:
            continue
        rewriting = rewritten(asked, wanted)
        for one in rewriting.changes:
            keys = keys_that_differ(one)
            for line in lines_that_differ(one):
                is_bare = set(line.strip()) <= set("{}[]- ")
                assert is_bare or any(key in line for key in keys), (line, keys)
            one.write()
        told = {name: getattr(wanted, name) for name in rewriting.unsaid}
        assert told == rewriting.unsaid
        again = asked_of(mine).fields | told
        of_the_command = {"model": wanted.model, "num_gpus": wanted.num_gpus}
        assert TrainingPlan(**of_the_command | again) == without_idle(wanted, again)
        write_back(rewriting)


def without_idle(plan, said):
    """What decides nothing is not written: who shards where nobody does, and ranks."""
    idle = ["sharding"] if plan.zero_stage == 0 else []
    if plan.trainable != "lora":
        idle += ["lora_rank", "lora_targets", "lora_dropout"]
    defaults = {item.name: item.default for item in fields(plan)}
    return replace(plan, **{name: said.get(name, defaults[name]) for name in idle})


def some_plans(count):
    """Plans of all kinds, always the same."""
    pick = random.Random(8).choice
    plans = []
    while len(plans) < count:
        stage, trained = pick([0, 0, 1, 2, 3]), pick(["default", "lora"])
        is_lora = trained == "lora"
        try:
            plans.append(
                TrainingPlan(
                    model="llama-2-7b",
                    trainable=trained,
                    lora_rank=pick([16, 8, 64]),
                    lora_targets=pick([(), ("q_proj", "v_proj")]) if is_lora else (),
                    lora_dropout=pick([0.0, 0.05]),
                    quantization=pick(["none", "nf4", "int8"]) if is_lora else "none",
                    precision=pick(["fp32", "tf32", "bf16-mixed", "bf16-pure"]),
                    optim=pick(["adamw", "adamw_8bit", "adafactor", "sgd"]),
                    per_device_train_batch_size=pick([1, 2, 7]),
                    gradient_accumulation_steps=pick([1, 4]),
                    seq_len=pick([None, 512]),
                    max_grad_norm=pick([0.0, 1.0, 0.5]),
                    activation_checkpointing=pick(["none", "full", "every-2"]),
                    attn_implementation=pick(["auto", "eager", "flash"]),
                    torch_compile=pick([False, True]),
                    num_gpus=8,
                    zero_stage=stage,
                    sharding=pick(["fsdp2", "deepspeed"]),
                    offload_optimizer=stage > 0 and pick([True, False]),
                    offload_parameters=stage == 3 and pick([True, False]),
                )
            )
        except MemplanError:
            continue
    return plans


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_a_written_plan_comes_back_and_becomes_another(kind, tmp_path):
    """read(write(a)) = a; read(change(write(a), b)) says no less of b than write(b)."""
    plans = some_plans(60)
    file = tmp_path / f"plan{kind.suffix}"
    for first, second in zip(plans[::2], plans[1::2], strict=True):
        text, unsaid = written(first, kind)
        if not text.strip() or not kind.knows(parse(text, kind.suffix)):
            continue  # nothing of it can be said
        file.write_text(text)
        asked = read_files([file], {"model": first.model, "num_gpus": 8})
        assert asked.files[0].format.name == kind.name, text
        same = rewritten(asked, first)
        assert (same.diff, same.unsaid) == ("", unsaid)
        other = rewritten(asked, second)
        text, unsaid = written(second, kind)
        said = kind.read(laws.source(parse(text, kind.suffix))).fields.keys()
        # What is said by silence alone cannot be said over something else.
        assert not other.unsaid.keys() & (said - unsaid.keys()), other.diff


def write_all(folder, **texts):
    files = []
    for name, text in texts.items():
        file = folder / name.replace("__", ".")
        file.write_text(text)
        files.append(file)
    return files


TRAIN = """\
### model
model_name_or_path: meta-llama/Llama-2-7b-hf

### method
per_device_train_batch_size: 8  # per card
gradient_accumulation_steps: 4
bf16: true
gradient_checkpointing: false
"""
FSDP = """\
distributed_type: FSDP   # sharded
fsdp_config:
  fsdp_offload_params: false # no
  fsdp_version: 2
mixed_precision: bf16
num_processes: 8
"""
ENGINE = """\
{
  "train_micro_batch_size_per_gpu": "auto",
  "gradient_accumulation_steps": "auto",
  "bf16": {"enabled": true},
  "zero_optimization": {
    "stage": 2
  }
}
"""


def test_each_field_goes_to_the_file_that_says_it(tmp_path):
    files = write_all(tmp_path, fsdp__yaml=FSDP, train__yaml=TRAIN)
    asked = read_files(files)
    plan = replace(
        TrainingPlan(**asked.fields),
        per_device_train_batch_size=3,
        offload_optimizer=True,
        offload_parameters=True,
    )
    rewriting = rewritten(asked, plan)
    assert rewriting.unsaid == {}
    assert [lines_that_differ(change) for change in rewriting.changes] == [
        ["  fsdp_offload_params: false # no", "  fsdp_offload_params: true # no"],
        [
            "per_device_train_batch_size: 8  # per card",
            "per_device_train_batch_size: 3  # per card",
        ],
    ]


def test_a_file_that_is_named_by_another_changes_too(tmp_path):
    text = f"{TRAIN}deepspeed: ds.json\n"
    files = write_all(tmp_path, train__yaml=text, ds__json=ENGINE)
    asked = read_files(files[:1])
    plan = replace(TrainingPlan(**asked.fields), zero_stage=3, seq_len=512)
    rewriting = rewritten(asked, plan)
    assert [change.file.name for change in rewriting.changes] == ["ds.json"]
    assert lines_that_differ(rewriting.changes[0]) == [
        '    "stage": 2',
        '    "stage": 3',
    ]
    assert rewriting.unsaid == {"seq_len": 512}


def test_auto_stays_where_another_file_says_it(tmp_path):
    files = write_all(tmp_path, ds__json=ENGINE, train__yaml=TRAIN)
    asked = read_files(files)
    plan = replace(TrainingPlan(**asked.fields), per_device_train_batch_size=2)
    (change,) = rewritten(asked, plan).changes
    assert change.file.name == "train.yaml"


def test_the_diff_is_one_that_patch_takes(tmp_path):
    file = tmp_path / "train.yaml"
    file.write_text(TRAIN.rstrip("\n"))
    asked = read_files([file])
    plan = replace(TrainingPlan(**asked.fields), activation_checkpointing="full")
    assert rewritten(asked, plan).diff == (
        f"--- {file}\n+++ {file}\n@@ -5,4 +5,4 @@\n"
        " per_device_train_batch_size: 8  # per card\n"
        " gradient_accumulation_steps: 4\n"
        " bf16: true\n"
        "-gradient_checkpointing: false\n\\ No newline at end of file\n"
        "+gradient_checkpointing: true\n\\ No newline at end of file\n"
    )


def test_a_file_is_written_whole_with_its_mark_and_never_over_another(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\r\n")
    FileChange(file=file, before="a: 1\r\n", after="a: 2\r\n").write()
    assert file.read_bytes() == b"\xef\xbb\xbfa: 2\r\n"
    with pytest.raises(ConfigError, match="changed since"):
        FileChange(file=file, before="a: 1\r\n", after="a: 3\r\n").write()
    assert [path.name for path in tmp_path.iterdir()] == ["a.yaml"]


def test_the_card_and_the_model_are_not_written_unless_a_file_says_them(tmp_path):
    (file,) = write_all(tmp_path, fsdp__yaml=FSDP)
    asked = read_files([file], {"model": "gpt2", "gpu": "rtx-4090"})
    plan = replace(TrainingPlan(**asked.fields), headroom_fraction=0.1)
    assert rewritten(asked, plan) == rewritten(asked, TrainingPlan(**asked.fields))
    text, unsaid = written(plan, ACCELERATE)
    assert "gpt2" not in text
    assert "gpu" not in unsaid


def test_files_that_make_no_plan_are_said(tmp_path):
    (file,) = write_all(tmp_path, a__yaml=FSDP.replace("8", "6"))
    asked = read_files([file], {"model": "gpt2"})
    file.write_text("distributed_type: FSDP\nfsdp_config: 4\n")
    with pytest.raises(MemplanError):
        rewritten(asked, TrainingPlan(**asked.fields))


def with_values(engine):
    """As transformers puts its own arguments in the place of "auto"."""
    own = {"train_micro_batch_size_per_gpu": 1, "train_batch_size": None}
    filled = {
        key: with_values(value) if isinstance(value, dict) else value
        for key, value in engine.items()
        if value != "auto"
    }
    return own | filled if "zero_optimization" in engine else filled


class TestConsumers:
    """The programs that the files are for load what was changed."""

    pytestmark = pytest.mark.slow

    def changed(self, folder, file):
        """Each change of a real file, written."""
        mine = copied(folder, file)
        asked = asked_of(mine)
        plan = TrainingPlan(**asked.fields)
        for change in CHANGES:
            try:
                rewriting = rewritten(asked, replace(plan, **change))
            except MemplanError:
                continue
            for one in rewriting.changes:
                one.write()
            yield mine
            write_back(rewriting)

    @pytest.mark.parametrize("file", laws.files("accelerate"), ids=lambda f: f.name)
    def test_accelerate(self, file, tmp_path):
        pytest.importorskip("accelerate")
        from accelerate.commands.config.config_args import load_config_from_file

        try:
            before = load_config_from_file(str(file))
        except (TypeError, ValueError) as error:
            pytest.skip(f"this accelerate does not load it as it is: {error}")
        for mine in self.changed(tmp_path, file):
            after = load_config_from_file(str(mine))
            assert after.compute_environment == before.compute_environment
            assert after.main_training_function == before.main_training_function

    @pytest.mark.parametrize("file", laws.files("deepspeed"), ids=lambda f: f.name)
    def test_deepspeed(self, file, tmp_path):
        pytest.importorskip("deepspeed")
        from deepspeed.runtime.config import DeepSpeedConfig

        class World:
            def __getattr__(self, name):
                return lambda: 1

        for mine in self.changed(tmp_path, file):
            said = with_values(json.loads(mine.read_text()))
            del said["train_batch_size"]
            stage = said.get("zero_optimization", {}).get("stage", 0)
            assert DeepSpeedConfig(said, mpu=World()).zero_config.stage == stage

    @pytest.mark.parametrize("file", ADAPTERS, ids=lambda f: f.name)
    def test_peft(self, file, tmp_path):
        pytest.importorskip("peft")
        from peft import PeftConfig

        rank = TrainingPlan(**asked_of(file).fields).lora_rank
        mine = copied(tmp_path, file)
        asked = asked_of(mine)
        plan = replace(
            TrainingPlan(**asked.fields), trainable="lora", lora_rank=rank + 1
        )
        for one in rewritten(asked, plan).changes:
            one.write()
        (tmp_path / "adapter_config.json").write_bytes(mine.read_bytes())
        assert PeftConfig.from_pretrained(str(tmp_path)).r == rank + 1

    @pytest.mark.parametrize("file", laws.files("trainer"), ids=lambda f: f.name)
    def test_transformers(self, file, tmp_path):
        """As `HfArgumentParser` finds its arguments in a file."""
        pytest.importorskip("transformers")
        from transformers import HfArgumentParser, TrainingArguments

        known = {item.name for item in fields(TrainingArguments)}
        parser = HfArgumentParser(TrainingArguments)
        assert parser.dataclass_types == [TrainingArguments]
        for mine in self.changed(tmp_path, file):
            data = load(mine)
            was = load(file)
            assert {key for key in data if key not in was} <= known


def test_reading_and_writing_agree_on_what_a_file_is():
    for file in REAL:
        read = read_file(file)
        assert read.format in FORMATS
        assert isinstance(read.file, Path)
