"""A page as Markdown, for pull requests: the same words and tables, no pictures."""

from collections.abc import Iterator

from memplan.views.markdown import code, table, text
from memplan.views.page.parts import Block, Facts, Page, Plot, Table, Verdict, shown


def as_markdown(page: Page) -> str:
    """Verdicts, then section by section."""
    parts = [f"# {text(page.title)}", *map(_verdict, page.verdicts)]
    for section in page.sections:
        parts.append(f"## {text(section.title)}")
        for block in section.blocks:
            parts += _block(block)
    return "\n\n".join(parts) + "\n"


def _verdict(verdict: Verdict) -> str:
    margin = f"{text(verdict.margin)} ({verdict.source})"
    lines = [
        f"**{verdict.word}** {text(verdict.run)}: {margin}",
        text(verdict.need),
        text(verdict.advice),
        verdict.command and code(verdict.command),
    ]
    return "\n\n".join(filter(None, lines))


def _block(block: Block) -> Iterator[str]:
    match block:
        case Plot():
            yield f"### {text(block.title)}"
            if block.note:
                yield text(block.note)
            yield _table(block.table)
        case Table():
            yield f"### {text(block.caption)}"
            yield _table(block)
        case Facts():
            yield from _facts(block)


def _table(block: Table) -> str:
    rules = [
        "---" if block.is_text(column) else "---:" for column in range(len(block.head))
    ]
    rows = [[text(shown(cell)) for cell in row] for row in block.rows]
    return table([text(name) for name in block.head], rows, rules)


def _facts(facts: Facts) -> Iterator[str]:
    yield f"### {text(facts.title)}"
    lines = [f"- {label}: {'; '.join(map(text, said))}" for label, said in facts.lines]
    if lines:
        yield "\n".join(lines)
    if facts.command:
        yield code(facts.command)
