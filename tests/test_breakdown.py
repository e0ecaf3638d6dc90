"""Rows add up to the byte, whatever blocks there are."""

import pytest
from captures import CAPTURE, capture
from hypothesis import given
from hypothesis import strategies as st

from memplan.captures.breakdown import (
    NO_LINE,
    NO_MODULE,
    NO_NAME,
    NOT_SEEN,
    ROUNDING,
    UNATTRIBUTED,
    breakdown_of,
    components_of,
    flat,
    folded,
)
from memplan.errors import CaptureFileError
from memplan.hardware import find_gpu
from memplan.running.rehearsal import Subject, completed, report_of

PEAK = CAPTURE["peak"]


def block(component, module, line, size, count=1):
    return {
        "component": component,
        "module": module,
        "name": "",
        "line": line,
        "bytes": size,
        "count": count,
    }


BLOCKS = [
    block("weights", "model.layers.0.mlp", "a.py:1 f", 30),
    block("weights", "model.layers.10.mlp", "a.py:1 f", 30),
    block("weights", "model.layers.9.mlp", "a.py:1 f", 30),
    block("activations", "model.layers.0", "b.py:2 g", 50, 5),
    block("activations", "model", "", 7),
    block("temporary_buffers", "", "b.py:2 g", 5),
    block("unattributed", "", "", 11),
]
ANY_BLOCKS = st.lists(
    st.builds(
        block,
        st.sampled_from(["weights", "activations", "unattributed"]),
        st.none() | st.text("ab.0*", max_size=9) | st.text(max_size=5),
        st.none() | st.text(max_size=5),
        st.integers(0, 2**40),
        st.integers(1, 9),
    ),
    max_size=30,
)


def breakdown(by, blocks=BLOCKS, depth=1):
    """Of blocks that are all that was requested, with some rounding."""
    total = sum(block["bytes"] for block in blocks)
    peak = {**PEAK, "requested_bytes": total, "allocated_bytes": total + 64}
    return breakdown_of(capture(blocks=blocks, peak=peak), by, depth=depth)


def check(rows, total):
    """That rows add up, at every depth."""
    assert sum(row.bytes for row in rows) == total
    for row in rows:
        if row.rows:
            check(row.rows, row.bytes)
            assert sum(part.count for part in row.rows) == row.count


@given(
    blocks=ANY_BLOCKS,
    by=st.sampled_from(["component", "module", "line"]),
    depth=st.integers(1, 5),
    top=st.integers(1, 5),
    missing=st.integers(-5, 5),
)
def test_rows_add_up_to_what_was_allocated(blocks, by, depth, top, missing):
    requested = sum(block["bytes"] for block in blocks) + missing
    allocated = requested + 512
    peak = {**PEAK, "requested_bytes": requested, "allocated_bytes": allocated}
    found = breakdown_of(capture(blocks=blocks, peak=peak), by, depth=depth)
    check(found.rows, allocated)
    check(folded(found.rows, top), allocated)
    assert sum(row["bytes"] for row in flat(found.rows)) == allocated
    names = [row.name for row in found.rows]
    assert ROUNDING in names
    assert (NOT_SEEN in names) == bool(missing)


def test_modules_are_a_tree_and_layers_are_in_order():
    (model, *others) = breakdown("module", depth=3).rows
    assert (model.name, model.bytes, model.count) == ("model", 147, 9)
    layers, itself = model.rows
    assert (layers.name, layers.bytes) == ("layers", 140)
    assert (itself.name, itself.bytes) == ("itself", 7)
    assert [row.name for row in layers.rows] == ["0", "9", "10"]
    assert [row.name for row in others] == [NO_MODULE, UNATTRIBUTED, ROUNDING]


def test_a_depth_cuts_names_off():
    rows = {row["name"]: row["bytes"] for row in flat(breakdown("module").rows)}
    assert rows == {"model": 147, NO_MODULE: 5, UNATTRIBUTED: 11, ROUNDING: 64}
    deeper = {row["name"] for row in flat(breakdown("module", depth=4).rows)}
    assert {"model", "model.layers.0", "model.layers.0.mlp"} < deeper


def test_what_is_of_no_module_is_told_by_name():
    rows = flat(breakdown("module", depth=2).rows)
    assert {"name": f"{NO_MODULE}.{NO_NAME}", "bytes": 5, "count": 1} in rows


def test_lines():
    rows = [(row.name, row.bytes) for row in breakdown("line").rows]
    assert rows == [
        ("a.py:1 f", 90),
        ("b.py:2 g", 55),
        (NO_LINE, 7),
        (UNATTRIBUTED, 11),
        (ROUNDING, 64),
    ]


def test_the_smaller_rows_are_one_that_says_how_many():
    blocks = [block("weights", f"m{n}", "", 100 - n) for n in range(20)]
    *shown, more, _ = folded(breakdown("module", blocks).rows, 5)
    assert [row.name for row in shown] == ["m0", "m1", "m2", "m3", "m4"]
    assert (more.name, more.count) == ("and 15 more", 15)
    assert more.bytes == sum(100 - n for n in range(5, 20))


def test_one_row_is_never_folded_alone():
    blocks = [block("weights", f"m{n}", "", 1) for n in range(6)]
    names = [row.name for row in folded(breakdown("module", blocks).rows, 5)]
    assert names == ["m0", "m1", "m2", "m3", "m4", "m5", ROUNDING]


def test_components_of_a_report_add_up():
    seen = completed(capture())
    report = report_of(seen, Subject(gpu=find_gpu("rtx-4090")))
    found = components_of(report)
    assert sum(row.bytes for row in found.rows) == report.peak.allocated_bytes
    assert [row.name for row in found.rows][-2:] == [UNATTRIBUTED, ROUNDING]


@pytest.mark.parametrize("changes", [{"blocks": None}, {"peak": None, "blocks": []}])
def test_without_blocks_there_is_a_sentence(changes):
    with pytest.raises(CaptureFileError, match="rank 0 held at its peak is not in"):
        breakdown_of(capture(**changes), "module")
