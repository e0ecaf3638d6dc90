"""Versions, and what of a machine can rehearse, as text and as plain data."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from memplan.virtual import Support


def as_text(versions: Mapping[str, str], support: Support) -> str:
    """Two columns of versions, then two of what rehearsing finds."""
    return "\n".join([*_columns(versions.items()), "", *_columns(_rehearsing(support))])


def as_data(versions: Mapping[str, str], support: Support) -> dict[str, Any]:
    """What `memplan env --json` prints."""
    build = support.build
    return {
        **versions,
        "rehearse": {
            "supported": not support.errors,
            "problems": [
                {"message": error.message, "hint": error.hint}
                for error in support.errors
            ],
            "interpreter": build.interpreter if build else None,
            "python": build.python if build else None,
            "machine": build.machine if build else None,
            "torch": build.torch if build else None,
            "cuda": build.cuda if build else None,
            "cudnn": support.cudnn,
            "cudnn_heuristics": support.has_cudnn_heuristics,
            "compiler": support.compiler,
            "cache": str(support.cache),
            "cache_problem": support.cache_problem,
            "built": support.is_built,
            "assumptions": list(build.assumptions) if build else [],
        },
    }


def _rehearsing(support: Support) -> Iterator[tuple[str, str]]:
    yield "rehearsing", "not possible here" if support.errors else "possible here"
    for error in support.errors:
        yield "problem", error.message
        yield "", error.hint
    if build := support.build:
        yield "interpreter", f"{build.interpreter} ({build.python})"
        yield "its torch", f"{build.torch} for CUDA {build.cuda} on {build.machine}"
        yield "its cuDNN", f"{support.cudnn}, {_workspaces(support)}"
    if support.compiler:
        yield "C compiler", support.compiler
    yield "virtual device", _device(support)
    for statement in build.assumptions if build else ():
        yield "assumed", statement


def _workspaces(support: Support) -> str:
    if support.has_cudnn_heuristics:
        return "whose heuristics give the workspaces of convolutions"
    return "whose heuristics need a card: workspaces of convolutions are left out"


def _device(support: Support) -> str:
    if support.is_built:
        return f"built, in {support.cache}"
    if support.cache_problem:
        return f"built anew for each run: {support.cache_problem}"
    return f"built at first use, in {support.cache}"


def _columns(rows: Iterable[tuple[str, str]]) -> list[str]:
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]
