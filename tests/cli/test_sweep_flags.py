"""`--executor` and `--jobs`, as a user types them and as the documents show them."""

import re
import shlex
from pathlib import Path

import pytest

from memplan.running import executors

PAGE = Path(__file__).parents[2] / "docs" / "executors.md"
SHOWN = re.search(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)[1]


@pytest.mark.parametrize("shown", SHOWN.split("$ ")[1:], ids=lambda t: t.split("\n")[0])
def test_what_the_page_shows_is_what_is_said(memplan, monkeypatch, shown):
    pytest.importorskip("distributed")
    monkeypatch.setattr(executors, "PATIENCE_S", 0.3)
    command, _, said = shown.partition("\n")
    result = memplan(*shlex.split(command)[1:])
    assert (result.code, result.stdout, result.stderr) == (2, "", said)


def test_estimates_need_no_executor(memplan):
    result = memplan("compare", "gpt2", "--executor", "dask://127.0.0.1:9")
    assert result.code == 2
    assert "hint: Add --by rehearse" in result.stderr
    assert (
        memplan("compare", "gpt2", "--tricks", "lion", "--executor", "local").code == 0
    )
