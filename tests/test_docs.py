"""What the documents link to is there, and the constants they state are right."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#([^)]+))?\)")

STATED = [
    # Where it is written, the number there, and how docs/virtual-device.md says it.
    ("source/values.c", "KEPT_BYTES ((size_t)512 << 20)", "512 MiB in all"),
    ("source/values.c", "CLEARED_BYTES ((size_t)64 << 20)", "| reads cleared | 64 MiB"),
    ("card.py", "COPY_LIMIT_BYTES = MiB", "| values kept | 1 MiB a copy"),
    ("source/addresses.c", "UNIT ((size_t)32 << 20)", "lowest hole | 32 MiB"),
    ("source/pools.c", "UNIT ((size_t)32 << 20)", "of a pool | 32 MiB, 512 B"),
    ("source/device.h", "VD_PAGE ((size_t)2 << 20)", "device memory | 2 MiB"),
    ("source/kernels.c", "ASSUMED_REGISTERS 32", "of a kernel | 32"),
    ("source/streams.c", "ELAPSED_MS 1.0f", "two events | 1 ms"),
    ("source/nccl_collectives.c", "LARGEST_SUM_BYTES 4096", "values | 4 KiB, 16 MiB"),
    ("source/nccl_collectives.c", "((size_t)16 << 20)", "values | 4 KiB, 16 MiB"),
    ("source/nvml.c", '"580.65.06" : "570.86.10"', "580.65.06, 570.86.10"),
    ("source/nvml_state.c", "ROOM_TEMPERATURE 25", "25 °C"),
    (
        "../estimating/card.py",
        "ASSUMED_CONTEXT_BYTES = 500 * MiB",
        "other cards | 500 MiB",
    ),
    ("../estimating/card.py", "NCCL_BYTES = 1536 * MiB", "NCCL's buffers | 1.5 GiB"),
    ("../hardware.py", "ASSUMED_SMS = 108", "108 where not known"),
    ("../running/shortage.py", "UNLIMITED_BYTES = 2**42", "| 4 TiB"),
]


def anchors(page):
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        there = (page.parent / target).resolve()
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


@pytest.mark.parametrize(("where", "written", "said"), STATED)
def test_the_device_s_constants_are_stated_as_they_are(where, written, said):
    virtual = ROOT / "memplan" / "virtual"
    assert written in (virtual / where).read_text(encoding="utf-8")
    assert said in (ROOT / "docs" / "virtual-device.md").read_text(encoding="utf-8")
