"""A test handed over to a process of its own on a virtual card, and its reports.

Fixtures, skips, expected failures and the limit itself are that process's: here its
reports are passed on, as pytest-xdist passes on those of its workers.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from memplan.errors import MemplanError
from memplan.estimating.card import outside_allocator
from memplan.hardware import find_gpu
from memplan.integrations import rehearsed_test
from memplan.integrations.gpu_limit import Limit
from memplan.integrations.rehearsed_test import OUTPUT, REPORTS, Request
from memplan.integrations.watched_body import ALL_STEPS
from memplan.runner.launch import Outcome, Program, launch
from memplan.running.run import check_allocator
from memplan.virtual import virtual_environment

MOST_LINES = 20
"""At the beginning and at the end of what a process printed that left no reports."""


def why_not(limit: Limit) -> str:
    """Why nothing can be rehearsed here; empty where it can."""
    if "MEMPLAN_RUNNER" in os.environ:
        return "this pytest is itself run by `memplan rehearse` or `memplan profile`."
    try:
        _card_variables(limit.gpu)
    except MemplanError as error:
        return f"{error.message} {error.hint}"
    return ""


def rehearse(item: pytest.Item, limit: Limit, nextitem: pytest.Item | None) -> None:
    """Run a test elsewhere, and tell pytest how it went.

    Raises:
        KeyboardInterrupt: Ctrl-C, when nothing of it runs any more.
    """
    hook = item.ihook
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    call = pytest.CallInfo.from_call(
        lambda: _reports(item, limit),
        when="call",
        reraise=(KeyboardInterrupt, pytest.exit.Exception),
    )
    reports = call.result if call.excinfo is None else [_report_of(item, call)]
    for report in reports:
        hook.pytest_runtest_logreport(report=report)
    for report in _torn_down(item, nextitem):  # which depends on how those were taken
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


@cache
def _card_variables(gpu: str) -> dict[str, str]:
    """The environment of a virtual card.

    Raises:
        MemplanError: this machine, or this torch, cannot play one.
    """
    check_allocator(os.environ)
    card = find_gpu(gpu)
    context, _ = outside_allocator(card, None, 1)
    return dict(virtual_environment(None, card, context_bytes=context).variables)


def _reports(item: pytest.Item, limit: Limit) -> list[pytest.TestReport]:
    """Of setup, call and teardown.

    Raises:
        pytest.fail.Exception: the process came to no test, or did not end it.
    """
    with tempfile.TemporaryDirectory(prefix="memplan-test-") as name:
        folder = Path(name)
        _request(item, limit, folder).write(folder)
        outcome = launch(
            Program(
                command=(sys.executable, "-m", rehearsed_test.__name__, name),
                environment=_card_variables(limit.gpu),
                steps=ALL_STEPS,
                is_quiet=True,
            )
        )
        if outcome.is_interrupted:
            raise KeyboardInterrupt
        _print_output(item.config, folder)
        return list(_read(item, folder, outcome))


def _request(item: pytest.Item, limit: Limit, folder: Path) -> Request:
    """What pytest was started with, and what sets its copy apart."""
    config = item.config
    more = ["--rootdir", str(config.rootpath), "-o", f"cache_dir={folder / 'cache'}"]
    if config.inipath is not None:
        more += ["-c", str(config.inipath)]
    if config.pluginmanager.has_plugin("xdist"):
        more += ["-n0"]
    if config.pluginmanager.has_plugin("pytest_cov"):
        more += ["--no-cov"]
    # The runner has imported memplan before pytest could look at its assertions.
    more += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return Request(
        nodeid=item.nodeid,
        file=str(item.path),
        limit=limit,
        arguments=(*map(str, config.invocation_params.args), *more),
        search_path=tuple(sys.path),
    )


def _print_output(config: pytest.Config, folder: Path) -> None:
    """With `-s` what a test prints is for the terminal."""
    if config.getoption("capture") == "no":
        sys.stdout.write(_output(folder))
        sys.stdout.flush()


def _output(folder: Path) -> str:
    file = folder / OUTPUT
    if not file.exists():
        return ""
    return file.read_text(encoding="utf-8", errors="replace")


def _read(
    item: pytest.Item, folder: Path, outcome: Outcome
) -> Iterator[pytest.TestReport]:
    """The reports of a test, each in its phase, up to the one that ends it.

    Raises:
        pytest.fail.Exception: it has no end.
    """
    file = folder / REPORTS
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    not_collected, is_over = "", False
    for line in lines:
        [(kind, data)] = json.loads(line).items()
        if kind == "not_collected":
            not_collected = data
            continue
        report = _report(item, data)
        is_over = report.when == "teardown"
        yield report
    if not is_over:
        pytest.fail(_without_end(folder, outcome, not_collected), pytrace=False)


def _report(item: pytest.Item, data: dict[str, Any]) -> pytest.TestReport:
    hook = item.config.hook
    report: pytest.TestReport = hook.pytest_report_from_serializable(
        config=item.config, data=data
    )
    report.nodeid = item.nodeid
    if isinstance(report.longrepr, list):  # of a skip; JSON has no tuples
        report.longrepr = tuple(report.longrepr)
    return report


def _without_end(folder: Path, outcome: Outcome, not_collected: str) -> str:
    if not_collected:
        return f"the test could not be collected to be rehearsed:\n{not_collected}"
    lines = _output(folder).splitlines()
    if len(lines) > 2 * MOST_LINES:
        lines = [*lines[:MOST_LINES], "...", *lines[-MOST_LINES:]]
    return "\n".join(
        [
            "the rehearsal of the test ended without a result, with exit code "
            f"{outcome.exit_code}",
            *lines,
        ]
    )


def _torn_down(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Iterator[pytest.TestReport]:
    """What earlier tests set up here, and the next does not need.

    They left it to this test, which has set up nothing here.
    """
    session = item.session
    last = None if session.shouldfail or session.shouldstop else nextitem
    call = pytest.CallInfo.from_call(
        lambda: session._setupstate.teardown_exact(last),
        when="teardown",
        reraise=(KeyboardInterrupt, pytest.exit.Exception),
    )
    if call.excinfo is not None:
        yield _report_of(item, call)


def _report_of(item: pytest.Item, call: pytest.CallInfo[Any]) -> pytest.TestReport:
    """Of what went wrong here; where in memplan a test was given up says nothing."""
    report = pytest.TestReport.from_item_and_call(item, call)
    if call.excinfo is not None and call.excinfo.errisinstance(pytest.fail.Exception):
        report.longrepr = str(call.excinfo.value)
    return report
