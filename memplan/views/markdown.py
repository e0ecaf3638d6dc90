"""Text, code and tables of Markdown, from names that may be anything."""

from collections.abc import Sequence

ESCAPES = str.maketrans({c: f"\\{c}" for c in r"\|<>`*_[]"})
"""Characters that Markdown would take for its own."""


def text(words: str) -> str:
    """Names as they are, whatever Markdown would make of them."""
    return " ".join(words.split()).translate(ESCAPES)


def code(words: str) -> str:
    """A command as code, also where it has backquotes of its own."""
    fence = "``" if "`" in words else "`"
    return f"{fence}{words}{fence}"


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    rules: Sequence[str] = (),
) -> str:
    """Cells as they come; a rule `---:` puts a column's on the right."""
    lines = [headings, rules or ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
