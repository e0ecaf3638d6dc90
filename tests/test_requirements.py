"""`--require`: the versions that an interpreter has, held against requirements."""

import sys
from importlib.metadata import version

import pytest

from memplan.errors import CommandError, PlanError
from memplan.running.requirements import check_requirements

RICH = version("rich")


@pytest.mark.parametrize(
    "requirements",
    [
        (),
        ("rich",),
        (f"rich=={RICH}",),
        (f"rich=={RICH.split('.')[0]}.*",),
        ("rich>=1", "typer>0"),
    ],
)
def test_what_is_met_passes(requirements):
    check_requirements(sys.executable, requirements)


def test_another_version_is_refused_by_name():
    with pytest.raises(CommandError, match=rf"rich {RICH}, and rich==1\.0 is asked"):
        check_requirements(sys.executable, ("typer>0", "rich==1.0"))


def test_a_missing_package_is_refused():
    with pytest.raises(CommandError, match="has no unheard-of"):
        check_requirements(sys.executable, ("unheard-of>=1",))


@pytest.mark.parametrize("text", ["", "torch=", "torch==", "==2.12"])
def test_what_is_no_requirement_is_quoted(text):
    with pytest.raises(PlanError, match="is no requirement") as caught:
        check_requirements(sys.executable, (text,))
    assert repr(text) in caught.value.message


def test_an_interpreter_that_does_not_answer_is_named(tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(CommandError, match="cannot be asked"):
        check_requirements(str(broken), ("torch",))
