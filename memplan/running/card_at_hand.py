"""The card that a program finds on this machine, asked of its own PyTorch."""

import json
import os
import re
import subprocess
from dataclasses import dataclass, replace
from typing import Any

from memplan.errors import DeviceError
from memplan.hardware import Gpu, all_gpus, custom_gpu
from memplan.runner import probe

OLDEST_TORCH = (2, 11)
PROBE_TIMEOUT_S = 120
REHEARSE = "`memplan rehearse` runs it on a virtual card."
SAME_SIZE = 0.03
"""Drivers keep up to about 1% of a card for themselves; sizes of cards that share a
name differ by far more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CardAtHand:
    """A card of this machine."""

    gpu: Gpu
    """As the catalogue knows it, with the memory that this one has."""
    is_catalogued: bool
    is_virtual: bool
    num_devices: int


def card_at_hand(interpreter: str) -> CardAtHand:
    """Ask what the PyTorch of `interpreter` finds.

    Raises:
        DeviceError: there is no card, or no PyTorch that could use one.
    """
    facts = _ask(interpreter)
    _check_torch(facts, interpreter)
    if not facts["num_devices"]:
        raise DeviceError("There is no CUDA device here to measure on.", hint=REHEARSE)
    return _card(facts)


def card_in_use(index: int) -> CardAtHand:
    """A card that this very process uses."""
    return _card(probe.facts(index))


def _card(facts: dict[str, Any]) -> CardAtHand:
    known = _catalogued(facts["name"], facts["total_bytes"])
    gpu = _as_it_says(facts) if known is None else known
    return CardAtHand(
        gpu=replace(gpu, total_bytes=facts["total_bytes"], total_bytes_basis="given"),
        is_catalogued=known is not None,
        is_virtual=facts["is_virtual"],
        num_devices=facts["num_devices"],
    )


def _ask(interpreter: str) -> dict[str, Any]:
    """Run `probe.py` there; a user's sitecustomize may print before it does."""
    environment = {k: v for k, v in os.environ.items() if k != "MEMPLAN_RUNNER"}
    try:
        done = subprocess.run(
            [interpreter, "-W", "ignore", str(probe.__file__)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_TIMEOUT_S,
        )
        facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return facts
    except OSError as error:
        raise _unanswered(interpreter, error.strerror or str(error)) from error
    except subprocess.TimeoutExpired as error:
        raise _unanswered(interpreter, "it does not answer") from error
    except (ValueError, IndexError) as error:
        said = done.stderr.strip().splitlines() or ["it does not answer"]
        raise _unanswered(interpreter, said[-1].rstrip(".")) from error


def _unanswered(interpreter: str, why: str) -> DeviceError:
    return DeviceError(
        f"{interpreter} cannot say what card it finds: {why}.",
        hint=f"Try it: {interpreter} -c 'import torch; "
        "print(torch.cuda.is_available())'",
    )


def _check_torch(facts: dict[str, Any], interpreter: str) -> None:
    torch = facts["torch"]
    if torch is None:
        raise DeviceError(
            f"{interpreter} has no torch ({facts['error']}).",
            hint="Name the python of the environment that trains.",
        )
    if facts["cuda"] is None:
        raise DeviceError(
            f"torch {torch} of {interpreter} is built without CUDA: it measures "
            "nothing on a card.",
            hint="Install the CUDA build: pip install torch (on Linux, from PyPI).",
        )
    release = re.match(r"(\d+)\.(\d+)", torch)
    if release is None or tuple(map(int, release.groups())) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise DeviceError(
            f"torch {torch} of {interpreter} is too old: measuring needs {oldest} or "
            "newer.",
            hint=f'pip install "torch>={oldest}".',
        )


def _catalogued(name: str, total_bytes: int) -> Gpu | None:
    """The card of the catalogue with that name and size; sizes can share a name."""

    def distance(gpu: Gpu) -> float:
        return abs(gpu.total_bytes - total_bytes) / total_bytes

    named = [gpu for gpu in all_gpus() if gpu.name.lower() == name.lower()]
    alike = [gpu for gpu in named if distance(gpu) <= SAME_SIZE]
    return min(alike, key=distance, default=None)


def _as_it_says(facts: dict[str, Any]) -> Gpu:
    """A card of which nothing is known but what it says itself."""
    major, minor = facts["compute_capability"]
    slug = re.sub(r"[^a-z0-9.]+", "-", facts["name"].lower()).strip("-")
    return replace(
        custom_gpu(None, facts["total_bytes"]),
        slug=slug or "custom",
        name=facts["name"],
        compute_capability=(major, minor),
        num_sms=facts["num_sms"],
    )
