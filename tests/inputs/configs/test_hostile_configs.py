"""Documents that nobody wrote in good faith: read, or one sentence."""

import copy
from functools import cache

import config_laws as laws
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memplan.inputs.configs.documents import load
from memplan.inputs.configs.reading import FORMATS

FOLDERS = ("accelerate", "deepspeed", "llama-factory", "trl", "trainer")
KINDS = [kind for kind in FORMATS if kind.name in FOLDERS]


def keys_in(value):
    """All names of keys in a document, however deep."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from keys_in(item)


@cache
def real(kind):
    """Documents as they are shipped."""
    return [load(file) for file in laws.files(kind.name)]


def names_for(kind):
    """Keys that real files of a format have."""
    return st.sampled_from(sorted({key for d in real(kind) for key in keys_in(d)}))


def documents(kind):
    """Any values at known keys, tables in tables."""
    values = st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**18), 10**18)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.sampled_from(["auto", "none", "no", "FSDP", "DEEPSPEED", "bf16", "true"])
        | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(names_for(kind) | st.text(max_size=8), inner, max_size=4)
        ),
        max_leaves=8,
    )
    return st.dictionaries(names_for(kind), values, max_size=8)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@laws.patient
@given(data=st.data())
def test_any_values_at_known_keys_are_read_or_answered(kind, data):
    laws.survives(kind, data.draw(documents(kind)))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@laws.patient
@given(data=st.data())
def test_two_wrong_values_in_a_real_file_are_read_or_answered(kind, data):
    """One may open the way to where the other does harm."""
    document = copy.deepcopy(data.draw(st.sampled_from(real(kind))))
    for _ in range(2):
        table = document
        while True:
            name = data.draw(st.sampled_from(sorted(table) or ["x"]))
            inner = table.get(name)
            if not isinstance(inner, dict) or not inner or data.draw(st.booleans()):
                break
            table = inner
        table[name] = copy.deepcopy(data.draw(st.sampled_from(laws.WRONG)))
    laws.survives(kind, document)
