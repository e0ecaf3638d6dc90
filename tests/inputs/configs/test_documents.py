"""Files of YAML, TOML and JSON: plain data, or an error of one sentence."""

import config_laws as laws
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memplan.errors import ConfigError
from memplan.inputs.configs.documents import MOST_BYTES, load, parse

LEVELS = "bcdefghij"


def multiplied(first, line):
    """A document in which each level holds the level before nine times."""
    names = zip("a" + LEVELS, LEVELS, strict=False)
    return first + "".join(line(inner, outer) for inner, outer in names)


LISTS = multiplied(
    "a: &a [x]\n", lambda i, o: f"{o}: &{o} [{', '.join([f'*{i}'] * 9)}]\n"
)
MERGED = multiplied(
    "a: &a {x: 1}\n", lambda i, o: f"{o}: &{o} {{<<: [{', '.join([f'*{i}'] * 9)}]}}\n"
)
REFUSED = {
    "empty": "",
    "a list": "[1, 2]",
    "a word": "training",
    "two documents": "a: 1\n---\nb: 2\n",
    "no YAML": "a: [1\nb: 2",
    "lists of aliases of lists": LISTS,
    "merges of merges": MERGED,
    "an alias of itself": "a: &a [*a]",
    "a function": "a: !!python/object/apply:os.system ['touch ran']",
    "a class": "a: !!python/name:os.system",
    "an object": "!!python/object:memplan.plan.TrainingPlan {}",
    "nested": "a: " + "[" * 3000 + "]" * 3000,
    "nested tables": "".join(" " * n + "a:\n" for n in range(100)),
    "no number": "a: .nan",
    "no finite number": "a: -.inf",
    "a number beyond measure": f"a: {'9' * 40}",
    "digits beyond measure": f"a: {'9' * 5000}",
    "an escape": "a: \x1b[31m",
    "no date": "a: 2024-99-99",
    "a list for a key": "? [a]\n: 1",
}


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "config.yaml"


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_what_is_no_configuration_is_refused_with_the_file(file, text):
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml cannot be read: ") as found:
        load(file)
    assert "\n" not in found.value.message
    assert not (file.parent / "ran").exists()


def test_the_line_of_a_mistake_is_named(file):
    file.write_text("a: 1\nb: [1\nc: 2\n")
    with pytest.raises(ConfigError, match="line 3"):
        load(file)


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_what_cannot_be_opened_is_named(file, name):
    with pytest.raises(ConfigError, match="cannot be read"):
        load(file.parent / name)


def test_what_is_no_text_is_refused(file):
    file.write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigError, match="is no text"):
        load(file)


def test_a_file_that_is_longer_than_any_configuration_is_not_read(file):
    file.write_text("#" * (MOST_BYTES + 1))
    with pytest.raises(ConfigError, match="longer than any configuration"):
        load(file)


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".yml", ""])
def test_json_is_read_whatever_the_file_is_called(file, suffix):
    other = file.with_suffix(suffix)
    other.write_text('\ufeff{"a": {"b": [1, 2.5, true, null, "x"]}}', encoding="utf-8")
    assert load(other) == {"a": {"b": [1, 2.5, True, None, "x"]}}


def test_toml_is_read_by_its_ending(file):
    other = file.with_suffix(".toml")
    other.write_text("[training]\nseq_len = 2048\n")
    assert load(other) == {"training": {"seq_len": 2048}}


def test_keys_and_dates_are_text_and_control_characters_visible():
    text = '2.5: 2024-01-01\ntrue: "\\e[31m"\n'
    assert parse(text, ".yaml") == {"2.5": "2024-01-01", "True": "\\x1b[31m"}


def test_a_few_aliases_and_merges_are_read_as_yaml_means_them():
    text = "base: &base {a: 1}\nother: {<<: *base, b: 2}\n"
    assert parse(text, ".yaml")["other"] == {"a": 1, "b": 2}


@pytest.mark.parametrize("suffix", [".yaml", ".json", ".toml"])
@laws.patient
@given(text=st.text(max_size=60))
def test_any_text_is_read_or_refused(tmp_path_factory, suffix, text):
    file = tmp_path_factory.mktemp("any") / f"config{suffix}"
    file.write_text(text, encoding="utf-8", newline="")
    try:
        assert isinstance(load(file), dict)
    except ConfigError as error:
        assert "\n" not in error.message
