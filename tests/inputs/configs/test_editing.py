"""Only the lines of changed keys differ, whatever a file looks like."""

import difflib
import json

import pytest
import tomlkit
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from memplan.errors import ConfigError
from memplan.inputs.configs.documents import parse
from memplan.inputs.configs.editing import dumped, edited

ACCELERATE = """\
# of `accelerate config`
compute_environment: LOCAL_MACHINE   # here
debug:    false
mixed_precision: 'no'
fsdp_config:
    fsdp_version: 2  # two
    fsdp_offload_params: False
    # one more

num_processes: 8
downcast_bf16: "no"
empty:
lora_target_modules:
  - q_proj
  - v_proj   # both
flow: {a: 1, b: [1, 2]}
text: |
  long
  lines

# the end
"""
DEEPSPEED = """\
{
    "fp16": {"enabled": "auto"},
    "zero_optimization": {
        "stage": 2,
        "reduce_bucket_size": 5e8
    },
    "betas": [0.9, 0.95], "empty": {}
}
"""
TITAN = """\
# a job
[training]
steps = 10  # ten
seq_len = 2048

# about parallelism
[parallelism]
enable = true
inline = {q = 1}

[parallelism.more]
k = 1
"""


def diff(text, suffix, keys, gone=()):
    """Lines taken out and put in, without those around them."""
    new = edited(text, suffix, keys, gone)
    lines = difflib.ndiff(text.splitlines(), new.splitlines())
    return [line for line in lines if line[0] in "+-"]


@pytest.mark.parametrize(
    ("path", "value", "lines"),
    [
        (
            ("mixed_precision",),
            "bf16",
            ["- mixed_precision: 'no'", "+ mixed_precision: 'bf16'"],
        ),
        (
            ("downcast_bf16",),
            "yes",
            ['- downcast_bf16: "no"', '+ downcast_bf16: "yes"'],
        ),
        (("debug",), True, ["- debug:    false", "+ debug:    true"]),
        (
            ("fsdp_config", "fsdp_offload_params"),
            True,
            ["-     fsdp_offload_params: False", "+     fsdp_offload_params: True"],
        ),
        (
            ("fsdp_config", "fsdp_version"),
            1,
            ["-     fsdp_version: 2  # two", "+     fsdp_version: 1  # two"],
        ),
        (("fsdp_config", "new"), 3, ["+     new: 3"]),
        (("num_processes",), 16, ["- num_processes: 8", "+ num_processes: 16"]),
        (("empty",), "lora", ["- empty:", "+ empty: lora"]),
        (("empty", "a", "b"), 1, ["+     a:", "+         b: 1"]),
        (
            ("flow", "c"),
            2.5,
            ["- flow: {a: 1, b: [1, 2]}", "+ flow: {a: 1, b: [1, 2], c: 2.5}"],
        ),
        (("new", "no"), "no", ["+ new:", "+     'no': 'no'"]),
        (("lr",), 1e-5, ["+ lr: 1.0e-05"]),
        (("names",), ("a", "b"), ["+ names: [a, b]"]),
        (
            ("lora_target_modules",),
            ["q_proj", "o_proj"],
            ["-   - v_proj   # both", "+   - o_proj   # both"],
        ),
        (("text",), "short", ["- text: |", "-   long", "-   lines", "+ text: short"]),
    ],
    ids=str,
)
def test_yaml_keeps_its_other_lines(path, value, lines):
    changed = diff(ACCELERATE, ".yaml", {path: value})
    assert sorted(changed) == sorted(lines)


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        (("num_processes",), ["- num_processes: 8"]),
        (("fsdp_config", "fsdp_version"), ["-     fsdp_version: 2  # two"]),
        (("text",), ["- text: |", "-   long", "-   lines"]),
        (("flow", "a"), ["- flow: {a: 1, b: [1, 2]}", "+ flow: {b: [1, 2]}"]),
        (("flow", "b"), ["- flow: {a: 1, b: [1, 2]}", "+ flow: {a: 1}"]),
        (("no", "such"), []),
    ],
    ids=str,
)
def test_keys_of_yaml_are_taken_out(path, lines):
    assert diff(ACCELERATE, ".yaml", {}, [path]) == lines


def test_a_table_that_is_left_empty_goes_too():
    gone = [("fsdp_config", "fsdp_version"), ("fsdp_config", "fsdp_offload_params")]
    new = edited(ACCELERATE, ".yaml", {}, gone)
    assert "fsdp_config" not in yaml.safe_load(new)
    assert "    # one more" in new


@pytest.mark.parametrize("indent", ["    ", "\t", "  "])
def test_json_keeps_its_indentation(indent):
    text = DEEPSPEED.replace("    ", indent)
    changed = diff(
        text,
        ".json",
        {
            ("zero_optimization", "stage"): 3,
            ("zero_optimization", "offload_optimizer", "device"): "cpu",
        },
    )
    assert sorted(changed) == sorted(
        [
            f'- {indent * 2}"stage": 2,',
            f'+ {indent * 2}"stage": 3,',
            f'- {indent * 2}"reduce_bucket_size": 5e8',
            f'+ {indent * 2}"reduce_bucket_size": 5e8,',
            f'+ {indent * 2}"offload_optimizer": {{',
            f'+ {indent * 3}"device": "cpu"',
            f"+ {indent * 2}}}",
        ]
    )


def test_json_in_one_line_stays_in_one():
    text = '{"a": 1, "b": {"c": 2}}'
    new = edited(text, ".json", {("b", "d"): "x", ("e", "f"): True}, [("a",)])
    assert new == '{"b": {"c": 2, "d": "x"}, "e": {"f": true}}'
    assert edited("{}", ".json", {("a",): 1}) == '{"a": 1}'


def test_toml_keeps_its_other_lines():
    keys = {
        ("training", "seq_len"): 4096,
        ("training", "local_batch_size"): 2,
        ("parallelism", "inline", "q"): 2,
        ("activation_checkpoint", "mode"): "full",
    }
    assert diff(TITAN, ".toml", keys, [("parallelism", "more", "k")]) == [
        "- seq_len = 2048",
        "+ seq_len = 4096",
        "+ local_batch_size = 2",
        "- inline = {q = 1}",
        "+ inline = {q = 2}",
        "- [parallelism.more]",
        "- k = 1",
        "+ ",
        "+ [activation_checkpoint]",
        '+ mode = "full"',
    ]


@pytest.mark.parametrize("text", [ACCELERATE, ACCELERATE.rstrip("\n")])
def test_the_end_of_lines_is_that_of_the_file(text):
    windows = text.replace("\n", "\r\n")
    keys = {("num_processes",): 2, ("new", "one"): 1}
    gone = [("debug",)]
    expected = edited(text, ".yaml", keys, gone).replace("\n", "\r\n")
    assert edited(windows, ".yaml", keys, gone) == expected


def test_an_alias_is_replaced_and_what_it_names_stays():
    text = "a: &x 4\nb: *x\nc: *x  # too\n"
    assert edited(text, ".yaml", {("c",): 5}) == "a: &x 4\nb: *x\nc: 5  # too\n"
    with pytest.raises(ConfigError, match="a cannot be changed without"):
        edited(text, ".yaml", {("a",): 5})


def test_a_value_is_no_table():
    with pytest.raises(ConfigError, match="fsdp cannot be changed"):
        edited("deepspeed: file.json\n", ".yaml", {("deepspeed", "fsdp"): 1})


def test_of_a_key_that_is_there_twice_the_last_counts():
    assert edited("a: 1\na: 2\n", ".yaml", {("a",): 3}) == "a: 1\na: 3\n"


NAMES = st.text("abcz_", min_size=1, max_size=3)
SCALARS = (
    st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(-1e6, 1e6).map(lambda x: float(f"{x:.6g}"))
    | st.text("ab: #'\"{}[],&*!%@-?|>no1", max_size=8)
)
TABLES = st.recursive(
    st.dictionaries(NAMES, SCALARS | st.lists(SCALARS, max_size=3), min_size=1),
    lambda inner: st.dictionaries(NAMES, SCALARS | inner, min_size=1, max_size=4),
    max_leaves=8,
)
WRITERS = {
    "block.yaml": lambda data: yaml.safe_dump(data, sort_keys=False),
    "wide.yaml": lambda data: yaml.safe_dump(data, indent=4, width=20),
    "flow.yaml": lambda data: yaml.safe_dump(data, default_flow_style=True),
    "mixed.yaml": lambda data: yaml.safe_dump(data, default_flow_style=None),
    "wide.json": lambda data: json.dumps(data, indent=3),
    "flow.json": json.dumps,
    "one.toml": tomlkit.dumps,
}


def places(table, path=()):
    for key, value in table.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


@pytest.mark.parametrize("kind", WRITERS)
@settings(deadline=None)
@given(table=TABLES, data=st.data())
def test_whatever_is_changed_nothing_else_is(kind, table, data):
    """edited(text, k = v) says what text says, with k = v: else it refuses.

    What it refuses has aliases or tags, and these texts have none.
    """
    suffix = kind[kind.index(".") :]
    text = WRITERS[kind](table)
    before = parse(text, suffix)
    path = data.draw(st.sampled_from(sorted(places(before))))
    new = edited(text, suffix, {path: data.draw(SCALARS)})
    after = parse(new, suffix)
    others = [
        key
        for key in places(before)
        if key[: len(path)] != path and path[: len(key)] != key
    ]
    assert [at(after, key) for key in others] == [at(before, key) for key in others]
    if others:  # else nothing would be left
        less = parse(edited(text, suffix, {}, [path]), suffix)
        assert path not in list(places(less))


def at(table, path):
    for key in path:
        table = table[key]
    return table


@pytest.mark.parametrize("suffix", [".yaml", ".json", ".toml"])
@settings(deadline=None)
@given(table=TABLES)
def test_what_is_written_is_read_again(suffix, table):
    keys = {path: at(table, path) for path in places(table)}
    leaves = {path: v for path, v in keys.items() if not isinstance(v, dict)}
    assert parse(dumped(leaves, suffix), suffix) == table
