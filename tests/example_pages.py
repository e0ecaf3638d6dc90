"""The commands of a worked example in docs/examples, and what each prints.

A page shows a command as `    $ memplan ...`, over several lines where they end in a
backslash or the next begins with `    > `, and under it what it prints. They run one
after another in one folder, as a reader would type them.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs" / "examples"
PAGES = sorted(page for page in FOLDER.glob("*.md") if page.name != "README.md")
INDENT = "    "
PROMPT = f"{INDENT}$ "
MORE = f"{INDENT}> "
SLOW = re.compile(r"--by rehearse|memplan rehearse|--png")
"""What takes minutes, or a browser."""
WRITTEN = re.compile(r"(?:-o|>) (\S+)")


@dataclass(frozen=True, slots=True)
class Step:
    """A command of a page."""

    lines: tuple[str, ...]
    """As they stand there."""
    printed: str
    """What stands under them."""

    @property
    def command(self) -> str:
        """What a shell is given."""
        return "\n".join(_unprompted(line) for line in self.lines)


def parts_of(text: str) -> list[str | Step]:
    """A page as lines of prose and commands."""
    lines, parts = text.splitlines(), list[str | Step]()
    while lines:
        line = lines.pop(0)
        if not line.startswith(PROMPT):
            parts.append(line)
            continue
        command = [line]
        while lines and (command[-1].endswith("\\") or lines[0].startswith(MORE)):
            command.append(lines.pop(0))
        printed = []
        while lines and _is_printed(lines[0]):
            printed.append(lines.pop(0).removeprefix(INDENT))
        num_blank = len(printed) - len("\n".join(printed).rstrip().splitlines())
        parts.append(Step(tuple(command), "\n".join(printed).rstrip()))
        parts += [""] * num_blank
    return parts


def text_of(parts: list[str | Step]) -> str:
    """The page again."""
    lines = list[str]()
    for part in parts:
        if isinstance(part, Step):
            lines += part.lines
            printed = part.printed.splitlines()
            lines += [f"{INDENT}{line}".rstrip() for line in printed]
        else:
            lines.append(part)
    return "\n".join(lines) + "\n"


def _unprompted(line: str) -> str:
    for prompt in (PROMPT, MORE):
        if line.startswith(prompt):
            return line.removeprefix(prompt)
    return line.removeprefix(INDENT)


def _is_printed(line: str) -> bool:
    return not line or (line.startswith(INDENT) and not line.startswith(PROMPT))


def slow_commands(steps: list[Step]) -> set[str]:
    """Those that take long, and those that read what these write."""
    slow, files = set[str](), set[str]()
    for step in steps:
        words = step.command.split()
        if SLOW.search(step.command) or files & set(words):
            slow.add(step.command)
            files |= set(WRITTEN.findall(step.command))
    return slow


def run(command: str, folder: Path) -> str:
    """What a command prints on stdout, as into a pipe: 80 columns, no colour.

    Raises:
        RuntimeError: it could not be run, or was wrong.
    """
    variables = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    here = Path(sys.executable).parent
    variables["PATH"] = os.pathsep.join([str(here), variables.get("PATH", "")])
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{command}\n{done.stderr}")
    return "\n".join(line.rstrip() for line in done.stdout.rstrip().splitlines())
