"""`limit_gpu_memory`, in pytest runs of their own, on a virtual card."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from importlib import import_module
from pathlib import Path

import pytest

from memplan.errors import MemplanError, VirtualDeviceError
from memplan.integrations.gpu_limit import Limit, limit_of, problem_of
from memplan.units import GiB, MiB

pytest_plugins = ["pytester"]

BREAKS = """
    import pytest

    @pytest.mark.limit_gpu_memory("1MiB", gpu="rtx-4090")
    def test_breaks():
        import torch
        torch.zeros(1024, 1024, device="cuda")
"""


def mark(*args, **kwargs):
    return pytest.mark.limit_gpu_memory(*args, **kwargs).mark


# What the marker says


def test_a_limit_has_a_size_a_card_and_what_is_limited():
    assert limit_of(mark("10GiB")) == Limit(num_bytes=10 * GiB, gpu="h100-80gb")
    assert limit_of(mark("1GB", gpu="RTX 4090", of="device")) == Limit(
        num_bytes=10**9, gpu="rtx-4090", of="device"
    )
    assert limit_of(mark(size=2 * MiB, of="reserved")).num_bytes == 2 * MiB


@pytest.mark.parametrize(
    ("malformed", "said"),
    [
        (mark(), "takes one size, not 0"),
        (mark("1GiB", "2GiB"), "takes one size, not 2"),
        (mark("1GiB", size="2GiB"), "takes one size, not 2"),
        (mark("1GiB", card="rtx-4090"), "takes no card"),
        (mark("much"), "'much' is no size"),
        (mark("0GiB"), "leaves no memory"),
        (mark("1GiB", gpu="rtx-409"), "no GPU named 'rtx-409'. Did you mean"),
        (mark("1GiB", of="cached"), "no kind of memory named 'cached'"),
    ],
)
def test_what_is_wrong_with_a_marker_is_a_sentence_and_a_hint(malformed, said):
    assert said in problem_of(malformed)
    with pytest.raises(MemplanError):
        limit_of(malformed)


# Where nothing is rehearsed


def test_a_malformed_marker_is_an_error_of_collection(pytester):
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.limit_gpu_memory("1GiB", gpu="rtx-409")

        class TestIt:
            def test_it(self): ...
        """
    )
    result = pytester.runpytest()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(
        ["*::TestIt::test_it: There is no GPU named 'rtx-409'. Did you mean*"]
    )
    result.assert_outcomes(errors=1)


def test_the_marker_is_known(pytester):
    pytester.makepyfile(BREAKS)
    result = pytester.runpytest("--strict-markers", "--collect-only", "-q")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*::test_breaks"])
    listed = pytester.runpytest("--markers")
    listed.stdout.fnmatch_lines(["@pytest.mark.limit_gpu_memory(size, *, gpu=*"])


def test_switched_off_a_test_is_a_test_as_any(pytester):
    pytester.makepyfile(BREAKS.replace("import torch", "return"))
    pytester.runpytest("--gpu-memory=off").assert_outcomes(passed=1)


def test_a_test_that_is_skipped_costs_no_process(pytester, monkeypatch):
    monkeypatch.setattr(rehearsing(), "why_not", None)
    pytester.makepyfile(BREAKS.replace("def ", "@pytest.mark.skip\n    def "))
    pytester.runpytest_inprocess().assert_outcomes(skipped=1)


def rehearsing():
    return import_module("memplan.integrations.rehearsing")


@pytest.fixture
def no_card(monkeypatch):
    """This machine cannot play one."""

    def refuse(gpu):
        raise VirtualDeviceError("There is no C compiler.", hint="Install one.")

    monkeypatch.setattr(rehearsing(), "_card_variables", refuse)


@pytest.mark.usefixtures("no_card")
def test_where_nothing_can_be_rehearsed_a_test_runs_without_limit_and_says_so(pytester):
    pytester.makepyfile(BREAKS.replace("import torch", "return"))
    result = pytester.runpytest_inprocess("-W", "default")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*limits nothing here: There is no C compiler. *"])


def test_within_a_rehearsal_there_is_no_other(monkeypatch):
    monkeypatch.setenv("MEMPLAN_RUNNER", "{}")
    assert "itself run by" in rehearsing().why_not(Limit(num_bytes=GiB))


@pytest.mark.usefixtures("no_card")
def test_or_fails_where_that_is_asked(pytester):
    pytester.makepyfile(BREAKS.replace("import torch", "return"))
    result = pytester.runpytest_inprocess("--gpu-memory=strict")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*cannot be rehearsed here: There is no C compiler.*"])


def test_without_a_card_there_is_nothing_to_measure(pytester, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    pytester.makepyfile(BREAKS.replace("import torch", "return"))
    result = pytester.runpytest_subprocess("--gpu-memory=measure")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*limits nothing here: there is no CUDA device*"])


def test_it_costs_pytest_nothing_to_start(pytester):
    """What is loaded beside pytest: three modules of memplan, and nothing of others."""
    pytester.makepyfile(
        """
        import sys

        def test_modules():
            loaded = {name for name in sys.modules if name.startswith("memplan")}
            assert loaded == {
                "memplan", "memplan.integrations", "memplan.integrations.pytest"
            }
            assert not {"torch", "pydantic", "rich"} & set(sys.modules)
        """
    )
    pytester.runpytest_subprocess("-p", "no:hypothesispytest").assert_outcomes(passed=1)


# Rehearsed

OUTCOMES = '''
import unittest
import warnings

import pytest
import torch
from torch import nn

limit = lambda size, **kwargs: pytest.mark.limit_gpu_memory(
    size, gpu="rtx-4090", **kwargs
)
MiB = 2**20


def take(size):
    return torch.empty(size, dtype=torch.uint8, device="cuda")


@pytest.fixture(scope="module")
def held():
    """What it took in being made is not counted, and what it holds is."""
    take(64 * MiB)
    block = take(8 * MiB)
    yield block
    del block


def test_ordinary(tmp_path):
    """It leaves what the module set up to the next, which sets nothing up."""
    assert not torch.cuda.is_available()


@limit("9MiB")
def test_fixture_keeps(held):
    pass


@limit("7MiB")
def test_fixture_breaks(held):
    pass


@limit("64MiB")
@pytest.mark.parametrize("size", [63, 65])
def test_parametrized(size):
    take(size * MiB)


class TestClass:
    @limit("4MiB", of="reserved")
    def test_reserved_breaks(self):
        take(3 * MiB)

    @limit("600MiB", of="device")
    def test_device_keeps(self):
        take(MiB)

    @limit("500MiB", of="device")
    def test_device_breaks(self):
        take(MiB)


class TestUnit(unittest.TestCase):
    def setUp(self):
        self.block = take(2 * MiB)

    @limit("1GiB")
    def test_unit_keeps(self):
        take(MiB)

    @limit("1MiB")
    def test_unit_breaks(self):
        take(MiB)

    @limit("2MiB")
    def test_unit_out_of_memory(self):
        take(40 * 1024 * MiB)


@limit("1GiB")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="decided here")
def test_skip_is_decided_on_the_card():
    pytest.skip("and this one is taken")


@limit("1MiB")
@pytest.mark.xfail(strict=True)
def test_expected_to_break():
    take(2 * MiB)


@limit("100GiB")
def test_out_of_memory_breaks():
    blocks = [take(1024 * MiB) for _ in range(30)]


@limit("100GiB")
def test_out_of_memory_may_be_expected():
    with pytest.raises(torch.OutOfMemoryError):
        take(30 * 1024 * MiB)


@limit("1GiB")
def test_values_fail():
    assert (torch.ones(3, device="cuda") + 1).sum().item() == 6


@limit("1GiB")
def test_dies():
    import os
    os._exit(7)


@limit("40MiB")
def test_trains_and_breaks():
    model = nn.Sequential(nn.Linear(1024, 1024), nn.Linear(1024, 1024)).cuda()
    optimizer = torch.optim.SGD(model.parameters())
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.zeros(4096, 1024, device="cuda")).sum().backward()
        optimizer.step()


@limit("1MiB")
def test_of_the_host_takes_nothing():
    torch.zeros(1024, 1024)
'''
EXPECTED = {
    "test_ordinary": "PASSED",
    "test_fixture_keeps": "PASSED",
    "test_fixture_breaks": "FAILED",
    "test_parametrized[63]": "PASSED",
    "test_parametrized[65]": "FAILED",
    "TestClass::test_reserved_breaks": "FAILED",
    "TestClass::test_device_keeps": "PASSED",
    "TestClass::test_device_breaks": "FAILED",
    "TestUnit::test_unit_keeps": "PASSED",
    "TestUnit::test_unit_breaks": "FAILED",
    "TestUnit::test_unit_out_of_memory": "FAILED",
    "test_skip_is_decided_on_the_card": "SKIPPED",
    "test_expected_to_break": "XFAIL",
    "test_out_of_memory_breaks": "FAILED",
    "test_out_of_memory_may_be_expected": "PASSED",
    "test_values_fail": "FAILED",
    "test_dies": "FAILED",
    "test_trains_and_breaks": "FAILED",
    "test_of_the_host_takes_nothing": "PASSED",
}
MODULE_OF_ITS_OWN = """
    import pytest

    torn_down = []

    @pytest.fixture(scope="module")
    def earlier():
        yield
        torn_down.append(True)

    def test_before(earlier): ...

    @pytest.mark.limit_gpu_memory("1GiB")
    def test_limited(): ...
"""
FOLLOWING = """
    import test_first

    def test_after():
        assert test_first.torn_down
"""


def outcomes_of(result):
    """`{test: PASSED}` of `-rA -v`."""
    text = result.stdout.str()
    return dict(
        re.findall(
            r"^test_it\.py::(\S+) (PASSED|FAILED|SKIPPED|XFAIL|ERROR)", text, re.M
        )
    )


@pytest.mark.slow
@pytest.mark.usefixtures("card_variables")
def test_every_outcome(pytester):
    pytester.makepyfile(test_it=OUTCOMES)
    result = pytester.runpytest_subprocess("-v", "-rs", "--junitxml=all.xml")
    assert outcomes_of(result) == EXPECTED
    said = result.stdout.str()
    for line in (
        "limited to 64.00 MiB but took 66.00 MiB allocated on rtx-4090 (rehearsed)",
        "limited to 4.00 MiB but took 20.00 MiB reserved on rtx-4090 (rehearsed)",
        "of the device on rtx-4090 (rehearsed)",
        "limited to 2.00 MiB but ran out of memory on rtx-4090 (rehearsed)",
        "limited to 100.00 GiB but ran out of memory on rtx-4090 (rehearsed)",
        "Values are meaningless on a virtual card",
        "ended without a result, with exit code 7",
        "and this one is taken",
    ):
        assert line in said, line
    assert re.search(
        r"took \S+ MiB allocated on rtx-4090 \(rehearsed\), at \w+ of 0", said
    )
    assert "weights, 2 x float32 [1024, 1024]" in said
    assert said.count("test session starts") == 1
    assert (pytester.path / "all.xml").read_text().count("<testcase") == len(EXPECTED)


@pytest.mark.slow
@pytest.mark.usefixtures("card_variables")
def test_the_example_of_the_page_fails_as_the_page_says(pytester, monkeypatch):
    program, printed = examples()
    pytester.makepyfile(test_step=program)
    monkeypatch.setenv("COLUMNS", "80")
    result = pytester.runpytest_subprocess("-q")
    assert result.stdout.str().startswith(printed)


def examples():
    """The two blocks at the beginning of docs/pytest.md."""
    page = Path(__file__).parents[2] / "docs" / "pytest.md"
    text = page.read_text(encoding="utf-8").partition("## The marker")[0]
    blocks = re.findall(r"(?:^    .*\n|^\n)+", text, re.M)
    program, printed = (textwrap.dedent(b).strip() for b in blocks if "    " in b)
    return program, printed.removeprefix("$ pytest -q\n")


@pytest.mark.slow
@pytest.mark.usefixtures("card_variables")
def test_what_others_set_up_is_torn_down_in_time(pytester):
    pytester.makepyfile(test_first=MODULE_OF_ITS_OWN, test_second=FOLLOWING)
    pytester.runpytest_subprocess().assert_outcomes(passed=3)


@pytest.mark.slow
@pytest.mark.usefixtures("card_variables")
def test_under_xdist_and_with_options_of_all_kinds(pytester):
    """Options of files and selections, which only one of the processes may obey."""
    pytest.importorskip("xdist")
    pytest.importorskip("pytest_cov")
    group = "@pytest.mark.xdist_group('one')\n    def "
    keeps = BREAKS.replace("_breaks", "_keeps").replace("1MiB", "1GiB")
    two = BREAKS + keeps.replace("def ", group)
    pytester.makepyfile(two)
    pytester.makeini(
        "[pytest]\naddopts = -n 2 --dist loadgroup --lf -m 'not slow' --basetemp=own"
        " --import-mode=importlib --cov=. --cov-report=term\nfilterwarnings = error"
    )
    result = pytester.runpytest_subprocess("-k", "test_", "--junitxml=all.xml")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["limited to 1.00 MiB but took 4.00 MiB allocated*"])


@pytest.mark.slow
@pytest.mark.usefixtures("card_variables")
def test_the_first_failure_ends_it_if_asked(pytester):
    pytester.makepyfile(BREAKS + BREAKS.replace("_breaks", "_never"))
    pytester.runpytest_subprocess("-x").assert_outcomes(failed=1)


@pytest.mark.slow
@pytest.mark.usefixtures("card_variables")
def test_what_a_test_prints_is_its_own(pytester):
    prints = BREAKS.replace("import torch", "print('heard'); import torch")
    pytester.makepyfile(prints)
    captured = pytester.runpytest_subprocess()
    captured.stdout.fnmatch_lines(["*Captured stdout call*", "heard"])
    loud = pytester.runpytest_subprocess("-s").stdout.str()
    assert loud.count("heard") == 1
    assert loud.count("test session starts") == 1


@pytest.mark.slow
def test_measured_in_this_process_on_the_card_at_hand(
    pytester, card_variables, monkeypatch
):
    """The card at hand is a virtual one here, and the report says so."""
    for name, value in card_variables.items():
        monkeypatch.setenv(name, value)
    keeps = BREAKS.replace("_breaks", "_keeps").replace("1MiB", "5MiB")
    after = """
    def test_pytorch_is_as_it_was():
        import torch
        assert torch.zeros(4, device="cuda").is_cuda
        assert not torch._C._cuda_isHistoryEnabled()
"""
    pytester.makepyfile(BREAKS + keeps + after)
    result = pytester.runpytest_subprocess("--gpu-memory=measure")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["limited to 1.00 MiB but took 4.00 MiB allocated*"])


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def waited_for(condition, seconds=60.0):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.1)
    return condition()


@pytest.mark.slow
@pytest.mark.usefixtures("card_variables")
@pytest.mark.parametrize("more", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_ctrl_c_leaves_nothing_behind(pytester, more):
    pytester.makepyfile(
        """
        import os, pathlib, time
        import pytest

        @pytest.mark.limit_gpu_memory("1GiB")
        def test_sleeps():
            pathlib.Path("pid.part").write_text(str(os.getpid()))
            os.rename("pid.part", "pid")
            time.sleep(600)
        """
    )
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *more]
    with subprocess.Popen(
        words, cwd=pytester.path, stdout=subprocess.PIPE, text=True
    ) as run:
        try:
            file = pytester.path / "pid"
            assert waited_for(file.exists)
            inside = int(file.read_text())
            assert inside != run.pid
            run.send_signal(signal.SIGINT)
            said, _ = run.communicate(timeout=60)
        finally:
            run.kill()
    assert run.returncode == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in said
    assert waited_for(lambda: not is_alive(inside), 10)
