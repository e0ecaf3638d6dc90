"""docs/accuracy.md: how far predictions were from measurements, or that there are none.

The page is what its inputs say and nothing else: no time of writing, no folder of this
machine. So a test can hold the page of the tree against what would be written today.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from memplan.estimating.accuracy import accuracy
from memplan.files import whole_file
from memplan.units import format_gib
from memplan.validation.cases import Engine
from memplan.validation.validate import Validation
from memplan.views.pictures import (
    Picture,
    PictureError,
    as_svg,
    pictures_of,
    shown_cases,
)
from memplan.views.validation import (
    HEADINGS,
    NUM_WORST,
    Row,
    case_line,
    cells_of,
    component_rows,
    fits_line,
    heading_of,
    peak_rows,
    signed,
    trick_rows,
)

NAMES = ("peaks", "components", "settings")
NO_PICTURE = (
    "*(No picture: it needs `pip install 'memplan[images]'`, and Chrome or Chromium.)*"
)
TITLE = "# How far predictions are from measurements"
WRITTEN = (
    "<!-- Written by `memplan validate --write docs/accuracy.md`; not by hand. -->"
)
NO_RECORDS = """\
**Nothing here is measured.** No run on a real card has been recorded yet, so how far
memplan's predictions are from a card is not known. `scripts/measure` makes records on
a machine with a CUDA GPU; the figures will stand here as soon as there are some."""
REHEARSED_RECORDS = """\
**Nothing here is measured.** The records were made on the virtual card and say
`rehearsed`: this page shows what one of measurements would look like."""
VIRTUAL = """\
## Against the virtual card

What can be said without a card: `memplan estimate` against the real PyTorch on a
[virtual CUDA device](virtual-device.md), over runs that are kept with the tests.
These are rehearsals, not measurements, and the formulas were put right on them: a
plan of another kind may be further off."""
HOW = """\
## How to read it

An error is prediction less measurement, as a fraction of what was measured; below
zero memplan said too little, which on a card is a run out of memory. *Too low* is the
part of the cases that were so by more than 1%. Median, mean and 95% are of the
errors' sizes. The errors of components are fractions of the allocated peak: they add
up to its own. What an estimate says is reserved is its allocated peak, rounded up: it
knows no fragmentation.

Each plan is predicted anew by today's memplan, for the card, the size and the context
of the record. `memplan validate` prints the same and lists the worst cases, each with
the command that makes the prediction again; `--rehearse` adds today's rehearsals;
`--fail-over 5%` leaves with 1 where an allocated peak was under-estimated by more."""
ESCAPES = str.maketrans({c: f"\\{c}" for c in r"\|<>`*_[]"})
"""Characters that Markdown would take for its own."""


def write_page(validation: Validation, path: Path) -> Iterator[str]:
    """Write the page, and its pictures to a folder of its name; yields what to say.

    Raises:
        OSError: they cannot be written.
    """
    folder = path.with_suffix("")
    drawn: dict[str, str] = {}
    try:
        drawn = {p.name: as_svg(p) for p in pictures_of(validation)}
    except PictureError as error:
        yield f"the page has no pictures: {error}"
    for name in NAMES:  # those of an older page
        with suppress(FileNotFoundError, NotADirectoryError):
            (folder / f"{name}.svg").unlink()
    if drawn:
        folder.mkdir(exist_ok=True)
    for name, svg in drawn.items():
        _write(folder / f"{name}.svg", svg)
    _write(path, page_of(validation, drawn, folder.name))


def page_of(validation: Validation, drawn: Collection[str], folder: str) -> str:
    """The text of the page; `drawn` are the pictures that lie in `folder`."""
    parts = [TITLE, WRITTEN]
    if not validation.cases:
        parts.append(NO_RECORDS)
    elif validation.reference == "rehearsed":
        parts.append(REHEARSED_RECORDS)
    if validation.cases:
        parts += _records(validation, drawn, folder)
    parts += [*_skipped(validation), VIRTUAL, _virtual_table(), HOW]
    return "\n\n".join(parts) + "\n"


def _records(
    validation: Validation, drawn: Collection[str], folder: str
) -> Iterator[str]:
    """Every table of the records, with its picture above it."""
    yield f"## {validation.reference.capitalize()} records"
    yield f"{heading_of(validation)}."
    yield "\n".join(f"- {fits_line(validation, e)}" for e in validation.engines)
    yield _errors_tables(validation, "peak", peak_rows)
    tables = {
        "peaks": _peaks_table(validation),
        "components": _errors_tables(validation, "component", component_rows),
        "settings": _errors_tables(validation, "plans that set", trick_rows),
    }
    for picture in pictures_of(validation):
        yield f"### {picture.title}"
        yield _picture(picture, drawn, folder)
        yield tables[picture.name]
    yield "### Worst first"
    yield "\n".join(_worst(validation))


def _picture(picture: Picture, drawn: Collection[str], folder: str) -> str:
    if picture.name not in drawn:
        return NO_PICTURE
    return f"![{_text(picture.alternative)}]({folder}/{picture.name}.svg)"


def _peaks_table(validation: Validation) -> str:
    """A row a case that the picture shows."""
    reference = validation.reference
    cases = shown_cases(validation.worst_first())
    rows = [
        (
            _text(case.entry),
            _text(case.plan.gpu),
            format_gib(case.difference.allocated.a_bytes or 0),
            f"{case.engine} {format_gib(case.difference.allocated.b_bytes or 0)}",
            signed(case.error_fraction("allocated")),
        )
        for case in cases
        if case.difference is not None
    ]
    table = _table(("plan", "card", reference, "predicted", "error"), rows)
    num_left = sum(case.difference is not None for case in validation.cases) - len(rows)
    if num_left:
        table += f"\n\nThe {len(rows)} furthest off; {num_left} are nearer."
    return table


def _errors_tables(
    validation: Validation,
    first: str,
    rows_of: Callable[[Validation, Engine], list[Row]],
) -> str:
    """One table, the engines below each other."""
    rows = [
        (engine, _text(name), *cells_of(errors))
        for engine in validation.engines
        for name, errors in rows_of(validation, engine)
    ]
    return _table(("prediction", first, *HEADINGS), rows)


def _worst(validation: Validation) -> Iterator[str]:
    for case in validation.worst_first()[:NUM_WORST]:
        yield f"- {_text(case_line(case, validation.reference))}"
        yield f"  {_code(case.command)}"


def _skipped(validation: Validation) -> Iterator[str]:
    """Names of files alone: a page says nothing of the folders of a machine."""
    if not validation.skipped:
        return
    yield f"## Skipped: {len(validation.skipped)}"
    rows = [(_text(one.path.name), _text(one.reason)) for one in validation.skipped]
    yield _table(("record", "why"), rows)


def _virtual_table() -> str:
    """What `scripts/accuracy` found over the kept rehearsals."""
    rows = []
    for what, generates in (("training steps", False), ("evaluations on MME", True)):
        seen = accuracy(generates=generates)
        rows.append(
            (
                what,
                str(seen.num_plans),
                ", ".join(seen.torch),
                seen.compared_on,
                f"{seen.median_absolute_error_fraction:.2%}",
                signed(seen.lowest_error_fraction),
                signed(seen.highest_error_fraction),
            )
        )
    headings = ("", "plans", "torch", "compared on", "median", "lowest", "highest")
    return _table(headings, rows)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Names to the left, figures as they come."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(text: str) -> str:
    """Names as they are, whatever Markdown would make of them."""
    return " ".join(text.split()).translate(ESCAPES)


def _code(text: str) -> str:
    """A command as code, also where it has backquotes of its own."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}"


def _write(path: Path, text: str) -> None:
    with whole_file(path, overwrite=True) as file:
        file.write(text.encode("utf-8"))
