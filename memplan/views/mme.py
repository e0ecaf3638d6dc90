"""Scores of MME as a table, and as plain data."""

from dataclasses import asdict
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from memplan.mme.scoring import MmeScore
from memplan.mme.tasks import CATEGORIES
from memplan.views.tables import figures_table, labelled, print_lines

SCHEMA_VERSION = 1
FULL_MARKS = {"perception": 2000, "cognition": 800}


def show_score(score: MmeScore, console: Console | None = None) -> None:
    """Print the totals, then every subtask."""
    table = figures_table(
        "", "score", "acc", "acc+", "precision", "recall", "other", "images"
    )
    for category in CATEGORIES:
        table.add_row(Text(category, "bold"), f"{score.total(category):.2f}")
        for task in score.of(category):
            table.add_row(
                f"  {task.name}",
                f"{task.score:.2f}",
                f"{task.acc:.2%}",
                f"{task.acc_plus:.2%}",
                f"{task.precision:.2%}",
                f"{task.recall:.2%}",
                str(task.other),
                str(task.num_images),
            )
    heading = ", ".join(
        f"{category} {score.total(category):.2f} of {FULL_MARKS[category]}"
        for category in CATEGORIES
    )
    parts: list[RenderableType] = [
        Text(heading, "bold"),
        Text(""),
        Padding(table, (0, 0, 0, 2)),
    ]
    if score.notes:
        parts += [Text(""), labelled(("Notes", score.notes))]
    print_lines(console, Group(*parts))


def score_as_data(score: MmeScore) -> dict[str, Any]:
    """The scores as JSON has them: exact, and with the counts behind them."""
    return {
        "schema_version": SCHEMA_VERSION,
        "perception": score.perception,
        "cognition": score.cognition,
        "tasks": [
            {
                **asdict(task),
                "score": task.score,
                "acc": task.acc,
                "acc_plus": task.acc_plus,
                "precision": task.precision,
                "recall": task.recall,
            }
            for task in score.tasks
        ],
        "notes": list(score.notes),
    }
