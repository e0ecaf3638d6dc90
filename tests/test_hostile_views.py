"""Whatever a capture file says, showing it is a table or a sentence."""

import io
import json
import zipfile

import pytest
from capture_files import rank, written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_hostile_captures import ANYTHING, changed, paths_of, zipped
from typer.testing import CliRunner

from memplan.cli.app import app
from memplan.errors import MemplanError

VIEWS = [
    (),
    ("--json",),
    ("--by", "component"),
    ("--by", "module"),
    ("--by", "module", "--json"),
    ("--by", "line"),
    ("--by", "phase"),
    ("--by", "rank"),
    ("--by", "time"),
    ("--rank", "1"),
    ("--rank", "1", "--by", "component"),
    ("--redact", "--json"),
]
LIKELY = st.sampled_from(
    [-1, 0, 1, -(2**62), 2**62, 10**18, "", "x" * 500, "[bold]", "\x1b[2J", None, []]
)


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """The parts of a capture of two ranks."""
    folder = tmp_path_factory.mktemp("hostile")
    file = written(folder / "run.mplan", rank(0), rank(1))
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    name=st.sampled_from(["report.json", "processes/0.json", "processes/1.json"]),
    view=st.sampled_from(VIEWS),
    value=ANYTHING | LIKELY,
    data=st.data(),
)
def test_any_value_anywhere_in_any_view(
    members, tmp_path, monkeypatch, name, view, value, data
):
    content = json.loads(members[name])
    path = data.draw(st.sampled_from(list(_telling(content))))
    file = tmp_path / "hostile.mplan"
    text = json.dumps(changed(content, path, value))
    file.write_bytes(zipped({**members, name: text}.items()))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    result = CliRunner().invoke(app, ["show", str(file), *view])
    if isinstance(result.exception, MemplanError):
        assert "\n" not in result.exception.message
    else:
        assert result.exception is None, result.exception
    assert "\x1b" not in result.stdout


def _telling(content):
    """Places in plain data, a few of every long list."""
    return (
        path
        for path in paths_of(content)
        if not any(isinstance(key, int) and key > 3 for key in path)
    )


def test_a_capture_on_a_terminal_of_letters_only(members, tmp_path, monkeypatch):
    file = tmp_path / "run.mplan"
    file.write_bytes(zipped(members.items()))
    for view in VIEWS:
        output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr("sys.stdout", output)
        try:
            app(["show", str(file), *view], standalone_mode=False)
        finally:
            monkeypatch.undo()
