"""How far predictions were from records: tables, the worst cases, what was skipped."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from memplan.validation.cases import COMPONENTS, PEAKS, Case, Engine, Errors, errors_of
from memplan.validation.validate import Validation
from memplan.views.tables import labelled, print_lines

SCHEMA_VERSION = 1
NUM_WORST = 10
NUM_SKIPPED = 20
Row = tuple[str, Errors]
HEADINGS = ("cases", "median", "mean", "95%", "worst", "too low")
NOTHING = {
    "measured": "There is no measured record here: nothing was held against a card.",
    "rehearsed": "There is no rehearsed record here to try this out on.",
}


def show_validation(validation: Validation, console: Console | None = None) -> None:
    """Print a validation."""
    print_lines(console, render_validation(validation))


def render_validation(validation: Validation) -> RenderableType:
    """Errors by engine, whether runs were said to fit, the worst, and the skipped."""
    parts: list[RenderableType] = []
    if validation.cases:
        parts.append(Text(heading_of(validation), "bold"))
        for engine in validation.engines:
            parts += _of_engine(validation, engine)
        fits = [fits_line(validation, engine) for engine in validation.engines]
        phases = [phase_line(validation, engine) for engine in validation.engines]
        parts += [Text(""), labelled(("Fits", fits), ("Phase", phases))]
        parts += _worst(validation)
    else:
        parts.append(Text(NOTHING[validation.reference]))
    parts += _skipped(validation)
    return Group(*parts)


def heading_of(validation: Validation) -> str:
    """`12 measured records, and what memplan 0.1.0 says of their plans`."""
    what = "measured"
    if validation.reference == "rehearsed":
        what = "rehearsed, not measured,"
    number = validation.num_records
    return (
        f"{number} {what} record{'s' * (number != 1)}, and what memplan "
        f"{version('memplan')} says of their plans"
    )


def fits_line(validation: Validation, engine: Engine) -> str:
    """Whether it was said beforehand which runs would come through."""
    verdicts = [case.verdict for case in validation.of(engine)]
    foretold, missed = verdicts.count("foretold"), verdicts.count("missed")
    alarms, ran = verdicts.count("false alarm"), verdicts.count("ran")
    return (
        f"{engine}: {foretold + missed} ran out of memory, {foretold} of them foretold "
        f"and {missed} said to fit; {alarms + ran} came through, {alarms} of them said "
        "to need more than the card has"
    )


def phase_line(validation: Validation, engine: Engine) -> str:
    """How often the phase of the peak was named rightly, and what was said instead."""
    named = [case.names_phase for case in validation.of(engine)]
    right, wrong = named.count(True), named.count(False)
    rate = validation.phase_rate(engine)
    if rate is None:
        return f"{engine}: no case has a peak"
    return (
        f"{engine}: of {right + wrong} peaks, the phase of {right} was named rightly "
        f"({rate:.1%})"
    )


def peak_rows(validation: Validation, engine: Engine) -> list[Row]:
    """Allocated, reserved, and on the device."""
    return _rows(validation, engine, PEAKS)


def component_rows(validation: Validation, engine: Engine) -> list[Row]:
    """The six, as parts of the allocated peak."""
    return _rows(validation, engine, COMPONENTS)


def kind_rows(validation: Validation, engine: Engine) -> list[Row]:
    """The allocated peak by the class of plans."""
    return _grouped(validation.by_kind(engine))


def trick_rows(validation: Validation, engine: Engine) -> list[Row]:
    """The allocated peak by what the plans set."""
    return _grouped(validation.by_trick(engine))


def cells_of(errors: Errors) -> tuple[str, ...]:
    """The figures of a row, in the order of HEADINGS."""
    return (
        str(errors.num_cases),
        f"{errors.median_fraction:.2%}",
        f"{errors.mean_fraction:.2%}",
        f"{errors.ninety_fifth_fraction:.2%}",
        signed(errors.worst_fraction),
        f"{errors.under_rate:.0%}",
    )


def signed(fraction: float | None) -> str:
    """`-2.31%`; what rounds to nothing has no sign."""
    if fraction is None:
        return "-"
    text = f"{fraction:+.2%}"
    return "0.00%" if text in ("+0.00%", "-0.00%") else text


def case_line(case: Case, reference: str) -> str:
    """`-2.31%  gpt2.fp32 on h100-80gb, estimated; measured 2026-11-23`."""
    date = case.measured_at.partition("T")[0]
    cards = f"{case.plan.num_gpus} x " if case.plan.num_gpus > 1 else ""
    error = signed(case.error_fraction("allocated"))
    if case.verdict in ("foretold", "missed"):
        said = "said to fit" if case.verdict == "missed" else "said not to fit"
        error = f"ran out of memory, {said}"
    return (
        f"{error}  {case.entry} on {cards}{case.plan.gpu}, {case.engine}; "
        f"{reference} {date}"
    )


def as_data(validation: Validation) -> dict[str, Any]:
    """The validation as JSON has it: every case, exact."""
    return {
        "schema_version": SCHEMA_VERSION,
        "memplan_version": version("memplan"),
        "reference": validation.reference,
        "engines": list(validation.engines),
        "num_records": validation.num_records,
        "errors": {
            engine: {
                term: _errors_data(validation.errors(engine, term))
                for term in (*PEAKS, *COMPONENTS)
            }
            for engine in validation.engines
        },
        "phase_rate": {
            engine: validation.phase_rate(engine) for engine in validation.engines
        },
        "by_class": {
            engine: _rows_data(kind_rows(validation, engine))
            for engine in validation.engines
        },
        "by_trick": {
            engine: _rows_data(trick_rows(validation, engine))
            for engine in validation.engines
        },
        "cases": [_case_data(case) for case in validation.worst_first()],
        "skipped": [
            {"path": str(skipped.path), "reason": skipped.reason}
            for skipped in validation.skipped
        ],
    }


def _grouped(groups: Mapping[str, Sequence[Case]]) -> list[Row]:
    found = [(name, errors_of(cases, "allocated")) for name, cases in groups.items()]
    return [(name, errors) for name, errors in found if errors is not None]


def _rows(validation: Validation, engine: Engine, terms: Sequence[str]) -> list[Row]:
    """Those that there are cases for."""
    found = [
        (term.replace("_", " "), validation.errors(engine, term)) for term in terms
    ]
    return [(name, errors) for name, errors in found if errors is not None]


def _rows_data(rows: Sequence[Row]) -> dict[str, Any]:
    return {name: _errors_data(errors) for name, errors in rows}


def _errors_data(errors: Errors | None) -> dict[str, Any] | None:
    return None if errors is None else asdict(errors)


def _case_data(case: Case) -> dict[str, Any]:
    return {
        "path": str(case.path),
        "entry": case.entry,
        "measured_at": case.measured_at,
        "engine": case.engine,
        "gpu": case.plan.gpu,
        "verdict": case.verdict,
        "class": case.kind,
        "names_phase": case.names_phase,
        "errors": {term: case.error_fraction(term) for term in (*PEAKS, *COMPONENTS)},
        "tricks": list(case.tricks),
        "command": case.command,
    }


def _of_engine(validation: Validation, engine: Engine) -> list[RenderableType]:
    """The errors of one kind of prediction, by term and by trick."""
    peaks = peak_rows(validation, engine)
    if not peaks:
        return []
    components = component_rows(validation, engine)
    parts: list[RenderableType] = [
        Text(""),
        _table(f"{engine}, peaks", peaks),
        Text(""),
        _table("components, of the allocated peak", components),
    ]
    kinds, tricks = kind_rows(validation, engine), trick_rows(validation, engine)
    if len(kinds) > 1:
        parts += [Text(""), _table("allocated peak, by class of plans", kinds)]
    if len(tricks) > 1:
        parts += [Text(""), _table("allocated peak, by what plans set", tricks)]
    return parts


def _table(title: str, rows: Sequence[Row]) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column(title, overflow="fold")
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, errors in rows:
        table.add_row(Padding(Text(name), (0, 0, 0, 2)), *cells_of(errors))
    return table


def _worst(validation: Validation) -> Iterator[RenderableType]:
    """Each with the command that makes the prediction again."""
    worst = validation.worst_first()
    yield Text("")
    yield Text("Worst first, by the allocated peak")
    for case in worst[:NUM_WORST]:
        yield Padding(Text(case_line(case, validation.reference)), (0, 0, 0, 2))
        yield Padding(Text(case.command, "dim"), (0, 0, 0, 6))
    if len(worst) > NUM_WORST:
        yield Padding(Text(f"and {len(worst) - NUM_WORST} more: --json"), (0, 0, 0, 2))


def _skipped(validation: Validation) -> list[RenderableType]:
    """A visible count, and each with its reason."""
    skipped = validation.skipped
    if not skipped:
        return []
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold")
    for one in skipped[:NUM_SKIPPED]:
        table.add_row(Text(f"{one.path}: {one.reason}"))
    if len(skipped) > NUM_SKIPPED:
        table.add_row(f"and {len(skipped) - NUM_SKIPPED} more: --json")
    return [Text(""), Text(f"Skipped: {len(skipped)}"), Padding(table, (0, 0, 0, 2))]
