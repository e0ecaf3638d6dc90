"""The libraries of the virtual device for one build of torch, built once.

What they are made of names their folder in the cache. How they are made is in
`generate.py`, which is imported only when they are not there yet.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

from memplan.virtual.cache import Kept, cache_folder, is_intact, keep
from memplan.virtual.libraries import SOURCE
from memplan.virtual.wheels import TorchBuild

GENERATOR = ("generate", "defaults", "exports", "libraries")
"""The modules that decide what is generated and how it is compiled."""


def built(
    build: TorchBuild,
    source: Path = SOURCE,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> Kept:
    """The folder of the libraries for `build`, built where they are not yet.

    `say` is told before that, as it takes some seconds.

    Raises:
        VirtualDeviceError: there is no compiler, or it fails.
    """

    def make(folder: Path) -> None:
        from memplan.virtual.generate import generate

        say(f"Building the virtual card for torch {build.torch}, once.")
        generate(build, source, folder)

    return keep(key_of(build, source), make)


def is_built(build: TorchBuild) -> bool:
    """Whether the libraries for `build` are in the cache."""
    return is_intact(cache_folder() / key_of(build))


def key_of(build: TorchBuild, source: Path = SOURCE) -> str:
    """A name for what the libraries are made of, the same wherever that lies.

    The compiler has no part in it: any builds the same device.
    """
    content = hashlib.sha256(f"{build.cuda} {build.machine}".encode())
    for real in build.libraries:
        content.update(real.identity.encode())
    if build.driver_header:
        content.update(build.driver_header.read_bytes())
    generator = (Path(__file__).parent / f"{name}.py" for name in GENERATOR)
    for path in [*generator, *sorted(source.glob("*.[ch]"))]:
        content.update(path.name.encode() + path.read_bytes())
    return content.hexdigest()[:24]
