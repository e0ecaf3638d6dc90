"""JSON from anywhere: plain data that can be printed, or a reason why not."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memplan.untrusted import plain_data, visible

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=9,
)


@given(st.text())
def test_what_is_visible_is_printable_and_stays(text):
    assert visible(text).isprintable()
    assert visible(visible(text)) == visible(text)
    assert visible(text) == text or not text.isprintable()


def texts_of(data):
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict):
        yield from data
        yield from texts_of(list(data.values()))
    elif isinstance(data, list):
        for value in data:
            yield from texts_of(value)


@given(PLAIN)
def test_every_text_of_plain_data_is_printable_and_others_stay(data):
    read = plain_data(json.dumps(data))
    assert all(text.isprintable() for text in texts_of(read))
    if all(text.isprintable() for text in texts_of(data)):
        assert read == data


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("layers.0.mlp", "layers.0.mlp"),
        ("größe 数据 🙂", "größe 数据 🙂"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nfits  b", "a\\nfits  b"),
        ("a\r\tb", "a\\r\\tb"),
        ("\u202egpj", "\\u202egpj"),
        ("caf\udce9", "caf\\udce9"),
        ("\x85\x9b31m", "\\x85\\x9b31m"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text, shown):
    assert visible(text) == shown
    assert plain_data(json.dumps({text: [text]})) == {shown: [shown]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Expecting value"),
        (b"\xff", "decode"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a":' * 200_000, "nested too deeply"),
        ("NaN", "no number"),
        ("-Infinity", "no number"),
        ("1e400", "beyond measure"),
        ("-" + "9" * 20, "beyond measure"),
        ("9" * 10_000, "beyond measure"),
    ],
)
def test_what_is_refused(text, says):
    with pytest.raises(ValueError, match=says):
        plain_data(text)


def test_nesting_is_bounded_wherever_python_s_stack_stands():
    def at_depth(frames):
        if frames:
            return at_depth(frames - 1)
        with pytest.raises(ValueError, match="nested too deeply"):
            plain_data("[" * 900 + "]" * 900)
        return True

    assert at_depth(sys.getrecursionlimit() // 2)


def test_the_largest_numbers_stay():
    assert plain_data("[9223372036854775807, -9223372036854775808, 1.5e300]") == [
        2**63 - 1,
        -(2**63),
        1.5e300,
    ]
