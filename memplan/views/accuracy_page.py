"""docs/accuracy.md: how far predictions were from measurements, or that there are none.

The page is what its inputs say and nothing else: no time of writing, no folder of this
machine. So a test can hold the page of the tree against what would be written today.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from memplan.estimating.accuracy import (
    ALLOCATED_FRACTION,
    DEFAULT_SETTING,
    RESERVED_FRACTION,
    ClassFigures,
    accuracy,
)
from memplan.files import whole_file
from memplan.units import format_gib
from memplan.validation.cases import Engine
from memplan.validation.validate import Validation
from memplan.views.markdown import code, table, text
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
    kind_rows,
    peak_rows,
    phase_line,
    signed,
    trick_rows,
)

OF_THE_GRID = "grid-"
"""What names of the grid's pictures begin with."""
KINDS_OF_PICTURE = ("errors", "within", "peaks", "components", "settings")
NAMES = (*KINDS_OF_PICTURE, *(f"{OF_THE_GRID}{kind}" for kind in KINDS_OF_PICTURE))
GRID = "## On the grid of plans"
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
[virtual CUDA device](virtual-device.md), over the grid of plans (`profiles/grid`) and
over runs that are kept with the tests. These are rehearsals, not measurements, and the
formulas were put right on them: a plan of another kind may be further off.

An estimate takes its bands from these classes, the narrowest that the plan is in. The
band of the allocated peak covers {allocated:.0%} of its class; that of reserved memory
leaves {above:.0%} above its upper end and as many below its lower one. Both are ratios
to the estimated allocated peak. A class of too few plans for such a quantile has its
worst and the quantile of the next wider class, whichever is further out; where there
is none, its worst."""
TESTED = """\
With the band of each plan made of all the other plans alone, {within:.1%} of
{num_plans} allocated peaks lay within it, and {above:.1%} of the plans reserved more
than the upper end of theirs; classes of too few plans are left aside."""
TOO_FEW = "There are too few plans with these settings to put the bands to the test."
THE_GRID = """\
What the bands are mostly made of: plans over families, tricks and cards, drawn once.
`memplan validate --against rehearsed` prints the same of today's formulas."""
HOW = """\
## How to read it

An error is prediction less measurement, as a fraction of what was measured; below
zero memplan said too little, which on a card is a run out of memory. *Too low* is the
part of the cases that were so by more than 1%. Median, mean and 95% are of the
errors' sizes. The errors of components are fractions of the allocated peak: they add
up to its own. What an estimate says is reserved is what is likely for a plan of the
class.

Each plan is predicted anew by today's memplan, for the card, the size and the context
of the record. `memplan validate` prints the same and lists the worst cases, each with
the command that makes the prediction again; `--rehearse` adds today's rehearsals;
`--fail-over 5%` leaves with 1 where an allocated peak was under-estimated by more."""
PERCENT = (0.1, 0.5, 1, 2, 5)
LIMITS = tuple(percent / 100 for percent in PERCENT)
CLASS_HEADINGS = (
    "class",
    "plans",
    "median error",
    "lowest",
    "highest",
    "allocated band",
    "reserved",
)


def write_page(
    validation: Validation, path: Path, grid: Validation | None = None
) -> Iterator[str]:
    """Write the page, and its pictures to a folder of its name; yields what to say.

    `grid` is shown beside, as what is known without a card.

    Raises:
        OSError: they cannot be written.
    """
    folder = path.with_suffix("")
    drawn: dict[str, str] = {}
    try:
        drawn = {p.name: as_svg(p) for p in _pictures(validation, grid)}
    except PictureError as error:
        yield f"the page has no pictures: {error}"
    for name in NAMES:  # those of an older page
        with suppress(FileNotFoundError, NotADirectoryError):
            (folder / f"{name}.svg").unlink()
    if drawn:
        folder.mkdir(exist_ok=True)
    for name, svg in drawn.items():
        _write(folder / f"{name}.svg", svg)
    _write(path, page_of(validation, drawn, folder.name, grid))


def page_of(
    validation: Validation,
    drawn: Collection[str],
    folder: str,
    grid: Validation | None = None,
) -> str:
    """The text of the page; `drawn` are the pictures that lie in `folder`."""
    parts = [TITLE, WRITTEN]
    if not validation.cases:
        parts.append(NO_RECORDS)
    elif validation.reference == "rehearsed":
        parts.append(REHEARSED_RECORDS)
    if validation.cases:
        parts.append(f"## {validation.reference.capitalize()} records")
        parts += _records(validation, pictures_of(validation), drawn, folder)
    parts += [*_skipped(validation), *_virtual()]
    if grid is not None and grid.cases:
        parts += [GRID, THE_GRID]
        parts += _records(grid, pictures_of(grid, OF_THE_GRID), drawn, folder)
    return "\n\n".join([*parts, HOW]) + "\n"


def _pictures(validation: Validation, grid: Validation | None) -> Iterator[Picture]:
    """All of the page."""
    yield from pictures_of(validation)
    if grid is not None:
        yield from pictures_of(grid, OF_THE_GRID)


def _records(
    validation: Validation,
    pictures: Iterable[Picture],
    drawn: Collection[str],
    folder: str,
) -> Iterator[str]:
    """Every table of the records, with its picture above it."""
    yield f"{heading_of(validation)}."
    yield "\n".join(
        f"- {line_of(validation, engine)}"
        for engine in validation.engines
        for line_of in (fits_line, phase_line)
    )
    yield _errors_tables(validation, "peak", peak_rows)
    tables = {
        "errors": _errors_tables(validation, "class", kind_rows),
        "within": _within_table(validation),
        "peaks": _peaks_table(validation),
        "components": _errors_tables(validation, "component", component_rows),
        "settings": _errors_tables(validation, "plans that set", trick_rows),
    }
    for picture in pictures:
        yield f"### {picture.title}"
        yield _picture(picture, drawn, folder)
        yield tables[picture.name.removeprefix(OF_THE_GRID)]
    yield "### Worst first"
    yield "\n".join(_worst(validation))


def _picture(picture: Picture, drawn: Collection[str], folder: str) -> str:
    if picture.name not in drawn:
        return NO_PICTURE
    return f"![{text(picture.alternative)}]({folder}/{picture.name}.svg)"


def _peaks_table(validation: Validation) -> str:
    """A row a case that the picture shows."""
    reference = validation.reference
    cases = shown_cases(validation.worst_first())
    rows = [
        (
            text(case.entry),
            text(case.plan.gpu),
            format_gib(case.difference.allocated.a_bytes or 0),
            f"{case.engine} {format_gib(case.difference.allocated.b_bytes or 0)}",
            signed(case.error_fraction("allocated")),
        )
        for case in cases
        if case.difference is not None
    ]
    listed = table(("plan", "card", reference, "predicted", "error"), rows)
    num_left = sum(case.difference is not None for case in validation.cases) - len(rows)
    if num_left:
        listed += f"\n\nThe {len(rows)} furthest off; {num_left} are nearer."
    return listed


def _errors_tables(
    validation: Validation,
    first: str,
    rows_of: Callable[[Validation, Engine], list[Row]],
) -> str:
    """One table, the engines below each other."""
    rows = [
        (engine, text(name), *cells_of(errors))
        for engine in validation.engines
        for name, errors in rows_of(validation, engine)
    ]
    return table(("prediction", first, *HEADINGS), rows)


def _worst(validation: Validation) -> Iterator[str]:
    for case in validation.worst_first()[:NUM_WORST]:
        yield f"- {text(case_line(case, validation.reference))}"
        yield f"  {code(case.command)}"


def _skipped(validation: Validation) -> Iterator[str]:
    """Names of files alone: a page says nothing of the folders of a machine."""
    if not validation.skipped:
        return
    yield f"## Skipped: {len(validation.skipped)}"
    rows = [(text(one.path.name), text(one.reason)) for one in validation.skipped]
    yield table(("record", "why"), rows)


def _within_table(validation: Validation) -> str:
    """How many plans are within errors that people ask for."""
    rows = []
    for engine in validation.engines:
        found = [case.error_fraction("allocated") for case in validation.of(engine)]
        sizes = [abs(error) for error in found if error is not None]
        parts = (sum(size <= limit for size in sizes) / len(sizes) for limit in LIMITS)
        rows.append((engine, *(f"{part:.1%}" for part in parts)))
    return table(("prediction", *(f"within {limit:g}%" for limit in PERCENT)), rows)


def _virtual() -> Iterator[str]:
    """What `scripts/accuracy` found over the kept rehearsals: the bands."""
    seen = accuracy()
    above = (1 - RESERVED_FRACTION) / 2
    yield VIRTUAL.format(allocated=ALLOCATED_FRACTION, above=above)
    yield f"Compared on {seen.compared_on}, of torch {', '.join(seen.torch)}."
    for setting, by_class in seen.classes.items():
        rows = [_class_row(name, figures) for name, figures in by_class.items()]
        title = "default settings" if setting == DEFAULT_SETTING else setting
        yield f"### Bands, {title}"
        yield table(CLASS_HEADINGS, rows)
        tested = seen.left_out.get(setting)
        if tested is None:
            yield TOO_FEW
            continue
        yield TESTED.format(
            within=tested.allocated_within_fraction,
            above=tested.reserved_above_fraction,
            num_plans=tested.num_plans,
        )


def _class_row(name: str, figures: ClassFigures) -> tuple[str, ...]:
    allocated, reserved = figures.allocated, figures.reserved
    return (
        name,
        str(figures.num_plans),
        f"{figures.median_absolute_error_fraction:.2%}",
        signed(figures.lowest_error_fraction),
        signed(figures.highest_error_fraction),
        f"{min(allocated.low, 1.0):.3f} to {max(allocated.high, 1.0):.3f}",
        f"{reserved.median:.3f}, {max(reserved.low, 1.0):.3f} to {reserved.high:.3f}",
    )


def _write(path: Path, content: str) -> None:
    with whole_file(path, overwrite=True) as file:
        file.write(content.encode("utf-8"))
