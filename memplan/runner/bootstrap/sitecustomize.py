"""Starts the runner in every Python process of the program.

Python imports a module of this name at start-up; this folder is first on PYTHONPATH.
The sitecustomize that it shadows, if any, runs as if this one were not there.
"""

import importlib.machinery
import importlib.util
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def _run_shadowed() -> None:
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


def _make_importable(package: str) -> None:
    """Import memplan from its own folder; nothing beside it becomes importable."""
    if "memplan" in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        "memplan",
        os.path.join(package, "__init__.py"),
        submodule_search_locations=[package],
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["memplan"] = module
    spec.loader.exec_module(module)


def _start(settings: dict[str, object]) -> None:
    _make_importable(str(settings["package"]))
    from memplan.runner.imports import after_import

    def install() -> None:
        from memplan.runner.hooks import install
        from memplan.runner.settings import Settings

        install(Settings.of(settings))

    after_import("torch", install)


try:
    _run_shadowed()
finally:
    if "MEMPLAN_RUNNER" in os.environ:
        _start(json.loads(os.environ["MEMPLAN_RUNNER"]))
