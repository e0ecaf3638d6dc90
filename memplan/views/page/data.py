"""What went into a page, as plain data: exact, and the same whatever file it was in."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from memplan.captures.breakdown import breakdown_of, flat
from memplan.comparing.files import as_dict
from memplan.report import as_dict as report_as_dict
from memplan.views.page.inputs import Entry, Input, entries_of

SCHEMA_VERSION = 1
DEPTH = 3


def as_data(inputs: Sequence[Input]) -> dict[str, Any]:
    """The inputs in their order. Fields are added within a `schema_version`."""
    entries = iter(entries_of(inputs))
    return {
        "schema_version": SCHEMA_VERSION,
        "memplan_version": version("memplan"),
        "kind": "page",
        "inputs": [
            {
                "file": one.file,
                "comparison": as_dict(one.comparison),
            }
            if one.comparison
            else {"file": one.file, **_of_entry(next(entries))}
            for one in inputs
        ],
    }


def _of_entry(entry: Entry) -> dict[str, Any]:
    """The report; of a capture also the step and the modules that the page draws."""
    process = entry.process or {}
    modules = None
    if entry.process and process.get("blocks") and process.get("peak"):
        modules = flat(breakdown_of(entry.process, "module", depth=DEPTH).rows)
    return {
        "label": entry.label,
        "report": report_as_dict(entry.report),
        "curve": process.get("curve"),
        "modules": modules,
    }
