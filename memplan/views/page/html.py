"""A page as one HTML file that asks nobody for anything.

plotly's library is in it once, the figures and the data as JSON beside it. The page's
own policy forbids every request and every script but its two: what a hostile name might
still smuggle in would not run.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from memplan.views.page.parts import Facts, Page, Plot, Table, shown

if TYPE_CHECKING:
    from jinja2 import Environment

LONG = 28
"""Letters of a text that is not squeezed into a narrow column."""
KINDS = {Plot: "plot", Table: "table", Facts: "facts"}


def as_html(page: Page, data: Mapping[str, Any]) -> str:
    """The page; `data` is what went into it, for those who want to compute with it."""
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    library, script = f"\n{get_plotlyjs()}\n", f"\n{_asset('page.js')}"
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            page=page,
            figures={plot.name: _figure(plot) for plot in page.plots},
            data=data,
            style=Markup(_asset("page.css")),
            library=Markup(library),
            script=Markup(script),
            policy=_policy(library, script),
        )
    )


def _figure(plot: Plot) -> Any:
    """As plotly's library takes it."""
    return json.loads(plot.draw().to_json())


def _policy(*scripts: str) -> str:
    """Only these scripts, styles of the page itself, and no address at all."""
    hashes = (hashlib.sha256(script.encode()).digest() for script in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(h).decode()}'" for h in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _asset(name: str) -> str:
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8")


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__package__ or ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    environment.tests["bytes"] = lambda cell: isinstance(cell, int)
    environment.tests["long"] = lambda cell: len(shown(cell)) > LONG
    environment.tests["flags"] = lambda cell: shown(cell).startswith("--")
    environment.globals["kind_of"] = lambda block: KINDS[type(block)]
    return environment
