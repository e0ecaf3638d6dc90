"""`--require torch==2.12.*`: refuse to rehearse with other versions than those named.

Peaks move by up to a fifth between versions of the libraries that allocate, so a
rehearsal is worth most with those that will train.
"""

import json
import subprocess
from collections.abc import Sequence

from memplan.errors import CommandError, PlanError

_ASK = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        found[name] = None
print(json.dumps(found))
"""


def check_requirements(interpreter: str, requirements: Sequence[str]) -> None:
    """Hold what an interpreter has installed against requirements.

    Raises:
        PlanError: one is no requirement.
        CommandError: a version is another, or the package is missing.
    """
    if not requirements:
        return
    from packaging.requirements import InvalidRequirement, Requirement

    wanted = []
    for text in requirements:
        try:
            wanted.append(Requirement(text))
        except InvalidRequirement as error:
            raise PlanError(
                f"{text!r} is no requirement.", hint="Write it like 'torch==2.12.*'."
            ) from error
    installed = _installed(interpreter, [requirement.name for requirement in wanted])
    for requirement in wanted:
        version = installed[requirement.name]
        if version is None:
            raise CommandError(
                f"{interpreter} has no {requirement.name}, and {requirement} is asked.",
                hint="Rehearse in the environment that will train.",
            )
        if not requirement.specifier.contains(version, prereleases=True):
            raise CommandError(
                f"{interpreter} has {requirement.name} {version}, and {requirement} "
                "is asked.",
                hint="Rehearse in the environment that will train.",
            )


def _installed(interpreter: str, names: list[str]) -> dict[str, str | None]:
    """The versions of an interpreter's packages; importing none of them."""
    done = subprocess.run(
        [interpreter, "-c", _ASK, *names], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise CommandError(
            f"{interpreter} cannot be asked for its packages.",
            hint=f"Try it: {interpreter} -c 'import importlib.metadata'",
        )
    found: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    return found
