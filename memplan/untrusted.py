"""JSON that may come from anywhere, as plain data that can be worked on and printed.

Every reader of files goes through here: what is not plain JSON, or would break later
where nobody looks for it, is refused at once.
"""

import json
from typing import Any, NoReturn

MOST_DIGITS = 19
"""2**63 has so many: no count and no size of anything is longer."""


def plain_data(text: str | bytes) -> Any:
    """What a JSON text says, its control characters made visible.

    A terminal obeys what names contain: escape sequences would move its cursor, and
    the end of a line would begin one of the file's own.

    Raises:
        ValueError: it is no JSON, nested too deeply, or has numbers beyond measure.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        return _visible(
            json.loads(
                text,
                parse_int=_whole_number,
                parse_float=_number,
                parse_constant=_no_number,
            )
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def visible(text: str) -> str:
    r"""A text with control characters written out.

    >>> visible("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def _visible(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, list):
        return [_visible(item) for item in value]
    if isinstance(value, dict):
        return {visible(key): _visible(item) for key, item in value.items()}
    return value


def _whole_number(digits: str) -> int:
    if len(digits.lstrip("-")) > MOST_DIGITS:
        raise ValueError("it has a number beyond measure")
    return int(digits)


def _number(digits: str) -> float:
    number = float(digits)
    if abs(number) == float("inf"):
        raise ValueError("it has a number beyond measure")
    return number


def _no_number(name: str) -> NoReturn:
    """NaN and the infinities, which JSON has not."""
    raise ValueError(f"{name} is no number")
