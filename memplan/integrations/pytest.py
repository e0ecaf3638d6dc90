"""A plugin for pytest: a limit on the GPU memory of a test.

    @pytest.mark.limit_gpu_memory("10GiB", gpu="rtx-4090")
    def test_a_step_fits(): ...

A test with the marker runs in a process of its own on a virtual card, and fails where
its body takes more. This module is loaded at every start of pytest: it imports nothing,
and the rest only once a test has the marker (docs/pytest.md).

    gpu_limit.py      what the marker says, and whether a test kept to it
    watched_body.py   the memory of a test's body, in whichever process that runs
    rehearsing.py     a test handed over to another process, and its reports taken back
    rehearsed_test.py that process
"""

from collections.abc import Generator

import pytest

MARKER = "limit_gpu_memory"
REHEARSE, STRICT, MEASURE, OFF = "rehearse", "strict", "measure", "off"
Wrapper = Generator[None, object, object]

why_unlimited = pytest.StashKey[str]()
"""Of a test: why its limit cannot be held against anything here."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("memplan").addoption(
        "--gpu-memory",
        choices=(REHEARSE, STRICT, MEASURE, OFF),
        default=REHEARSE,
        help=f"What becomes of {MARKER}: rehearse on a virtual card, where that is not "
        "possible run without limit and warn; strict: fail there; measure in this "
        "process, on the card at hand; off.  (default: rehearse)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f'{MARKER}(size, *, gpu="h100-80gb", of="allocated"): fail if the body takes '
        "more memory of the card; of: allocated, reserved or device",
    )
    if config.getoption("gpu_memory") == MEASURE:
        from memplan.integrations.watched_body import Measured

        config.pluginmanager.register(Measured(), "memplan-measured")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A marker that says nothing sensible is an error before any test runs."""
    report = yield
    for item in report.result or ():
        mark = (
            item.get_closest_marker(MARKER) if isinstance(item, pytest.Item) else None
        )
        if mark is None:
            continue
        from memplan.integrations.gpu_limit import problem_of

        if problem := problem_of(mark):
            report.outcome, report.result = "failed", []
            report.longrepr = f"{item.nodeid}: {problem}"
            break
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> bool | None:
    """Have a test with the marker rehearsed; None leaves it to pytest."""
    if item.config.getoption("gpu_memory") not in (REHEARSE, STRICT):
        return None
    mark = item.get_closest_marker(MARKER)
    if mark is None or item.get_closest_marker("skip"):
        return None
    from memplan.integrations.gpu_limit import limit_of
    from memplan.integrations.rehearsing import rehearse, why_not

    limit = limit_of(mark)
    if reason := why_not(limit):
        item.stash[why_unlimited] = reason
        return None
    rehearse(item, limit, nextitem)
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Say of a test that runs here what it is not held to."""
    reason = item.stash.get(why_unlimited, "")
    if not reason:
        return
    if item.config.getoption("gpu_memory") == STRICT:
        pytest.fail(f"{MARKER} cannot be rehearsed here: {reason}", pytrace=False)
    item.warn(pytest.PytestWarning(f"{MARKER} limits nothing here: {reason}"))
