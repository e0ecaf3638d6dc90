"""What a generation saves or could save, with the price beside it."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from memplan.report import Saving
from memplan.units import format_gib
from memplan.views.tables import figures_table

CAVEAT = "Where answers may change, so do scores: run the evaluation with it."


def savings_table(savings: Sequence[Saving]) -> RenderableType:
    """One line a trick, used ones first; the caveat where one changes answers."""
    table = figures_table("", "saves", "on the card")
    table.add_column("")
    for saving in savings:
        price = "answers may change" if saving.changes_answers else "same model"
        table.add_row(
            saving.trick + (" (used)" if saving.is_used else ""),
            format_gib(saving.saved_bytes),
            format_gib(saving.device_bytes),
            price,
        )
    parts: list[RenderableType] = [Padding(table, (0, 0, 0, 2))]
    if any(saving.changes_answers for saving in savings):
        parts.append(Padding(Text(CAVEAT), (0, 0, 0, 2)))
    return Group(*parts)
