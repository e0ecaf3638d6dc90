"""A comparison as JSON, and back."""

import json
from dataclasses import asdict
from functools import cache
from typing import Any

from memplan.comparing.comparison import SCHEMA_VERSION, Comparison, Variant
from memplan.errors import MemplanError
from memplan.untrusted import plain_data

HINT = "A comparison is what `memplan compare ... --json` prints."


def to_json(comparison: Comparison, *, indent: int | None = 2) -> str:
    """The comparison as JSON text."""
    return json.dumps(as_dict(comparison), indent=indent)


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """As plain data, each variant with the bytes it needs."""
    data = asdict(comparison)
    data["baseline"] = _as_dict(comparison.baseline)
    for name in ("alone", "greedy"):
        data[name] = [_as_dict(variant) for variant in getattr(comparison, name)]
    return data


def is_comparison(data: object) -> bool:
    """Whether plain data say that they are one."""
    return isinstance(data, dict) and data.get("kind") == "comparison"


def from_json(text: str | bytes) -> Comparison:
    """Read a comparison back; fields that a later version added are ignored.

    Control characters of its texts are written out: they may come from anywhere.

    Raises:
        MemplanError: the text is no comparison, or one of another schema.
    """
    from pydantic import ValidationError

    try:
        data = plain_data(text)
    except ValueError as error:
        raise MemplanError(
            f"This is not a memplan comparison: {error}.", hint=HINT
        ) from error
    if not is_comparison(data) or data.get("schema_version") != SCHEMA_VERSION:
        raise MemplanError(
            f"This is not a memplan comparison of schema version {SCHEMA_VERSION}.",
            hint=HINT,
        )
    try:
        comparison: Comparison = _adapter().validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise MemplanError(
            f"The comparison's field {place} is wrong: {first['msg']}.", hint=HINT
        ) from error
    return comparison


def _as_dict(variant: Variant) -> dict[str, Any]:
    return {**asdict(variant), "need_bytes": variant.need_bytes}


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Comparison)
