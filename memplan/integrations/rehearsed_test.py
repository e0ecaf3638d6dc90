"""The process in which one test is rehearsed: pytest, for that test alone.

    python -m memplan.integrations.rehearsed_test FOLDER

It meets a virtual card and is watched from the start, as any rehearsed program. It is
started as the pytest was that hands the test over, so that the same files, plugins and
options count; what that one writes and selects is not for this one to do. Its reports
go to a file, a line of JSON each.
"""

import json
import os
import sys
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from memplan.hardware import Gpu, find_gpu
from memplan.integrations.gpu_limit import Limit
from memplan.integrations.pytest import OFF
from memplan.integrations.watched_body import limited, why_broken

REQUEST, REPORTS, OUTPUT = "request.json", "reports.jsonl", "output.txt"
MEANINGLESS = """\
Values are meaningless on a virtual card: kernels compute nothing there, and
what they should have computed reads as 0. If that is why it failed, test
values in another test, without a limit.
"""
SELECTING = {"markexpr": "", "keyword": "", "deselect": None}
"""Options that leave tests out."""
WRITING = {"xmlpath": None, "htmlpath": None, "report_log": None}
"""Options that name files, of pytest and of plugins."""
DEBUGGING = {"usepdb": False, "trace": False}
"""Options that ask who sits at the terminal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One test, and how pytest was started."""

    nodeid: str
    file: str
    limit: Limit
    arguments: tuple[str, ...]
    search_path: tuple[str, ...]

    def write(self, folder: Path) -> None:
        """Leave it where `read` finds it."""
        (folder / REQUEST).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Request":
        data = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
        return cls(**{**data, "limit": Limit(**data["limit"])})


class RehearsedTest:
    """A plugin: runs one test, and writes its reports down."""

    def __init__(self, request: Request, folder: Path) -> None:
        self._request = request
        self._folder = folder
        self._file = (folder / REPORTS).open("w", encoding="utf-8")

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Before the plugins that act on these options.

        What there is to tell of the test, the other pytest tells.
        """
        self._config = config
        config.pluginmanager.set_blocked("terminalreporter")
        config.args = [self._request.file]
        option = vars(config.option)
        option["gpu_memory"] = OFF
        option["basetemp"] = str(self._folder / "tmp")
        for options in (SELECTING, WRITING, DEBUGGING):
            option |= {name: options[name] for name in options.keys() & option.keys()}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Those of one file: the one that was asked for."""
        wanted = self._request.nodeid
        chosen = [item for item in items if item.nodeid == wanted]
        # pytest-xdist adds the group of a test to its name.
        chosen += [item for item in items if wanted.startswith(f"{item.nodeid}@")]
        items[:] = chosen[:1]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write("not_collected", report.longreprtext)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        import torch  # noqa: F401  (it begins to be watched, if no test has imported it)

        return (yield from limited(self._request.limit, self._card))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        error = call.excinfo
        if report.failed and error and not error.errisinstance(pytest.fail.Exception):
            report.sections.append(("Rehearsed", self._hint(error.value)))
        return report

    def _hint(self, error: BaseException) -> str:
        """What may be behind an error of the test's own.

        unittest keeps the errors of a body for itself: only here they are seen.
        """
        from memplan.runner.capture import OUT_OF_MEMORY, ending_of

        if ending_of(error) != OUT_OF_MEMORY:
            return MEANINGLESS
        return why_broken(self._request.limit, OUT_OF_MEMORY, self._card) or MEANINGLESS

    def _card(self) -> Gpu:
        return find_gpu(self._request.limit.gpu)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        hook = self._config.hook
        data = hook.pytest_report_to_serializable(config=self._config, report=report)
        self._write("report", data)

    def _write(self, kind: str, data: Any) -> None:
        print(json.dumps({kind: data}, default=str), file=self._file, flush=True)


def main(folder: Path) -> int:
    """Run the test of a request."""
    output = os.open(folder / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    request = Request.read(folder)
    sys.path[:] = request.search_path
    return pytest.main([*request.arguments], plugins=[RehearsedTest(request, folder)])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
