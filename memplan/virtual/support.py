"""What this machine has of what rehearsing needs, before anything is built or run."""

from dataclasses import dataclass
from pathlib import Path

from memplan.errors import MemplanError
from memplan.virtual.build import is_built
from memplan.virtual.cache import cache_folder, problem_of
from memplan.virtual.compiler import find_compiler
from memplan.virtual.wheels import TorchBuild, find_torch

FIRST_CUDNN_WITHOUT_A_DEVICE = (9, 8)
"""From here on its heuristics take a description of a card in place of the card
(release notes of cuDNN 9.8)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Support:
    """What there is for one interpreter; None where it is not there."""

    build: TorchBuild | None
    compiler: str | None
    cache: Path
    cache_problem: str | None
    """Why the device would be built for one run alone."""

    is_built: bool
    """Whether the device for this torch is in the cache."""

    errors: tuple[MemplanError, ...]
    """Why rehearsing is not possible; empty where it is."""

    @property
    def cudnn(self) -> str | None:
        """Version of cuDNN."""
        return self.build.real("libcudnn").version if self.build else None

    @property
    def has_cudnn_heuristics(self) -> bool:
        """Whether cuDNN can tell the workspaces of convolutions without a card."""
        if self.cudnn is None:
            return False
        major, minor = (int(part) for part in self.cudnn.split(".")[:2])
        return (major, minor) >= FIRST_CUDNN_WITHOUT_A_DEVICE


def check(python: str | None = None) -> Support:
    """What rehearsing with the torch of `python` would find. Builds nothing."""
    errors: list[MemplanError] = []
    build, compiler, ready = None, None, False
    try:
        build = find_torch(python)
        ready = is_built(build)
    except MemplanError as error:
        errors.append(error)
    try:
        compiler = find_compiler().name
    except MemplanError as error:
        if not ready:
            errors.append(error)
    cache = cache_folder()
    return Support(
        build=build,
        compiler=compiler,
        cache=cache,
        cache_problem=problem_of(cache),
        is_built=ready,
        errors=tuple(errors),
    )
