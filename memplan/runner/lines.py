"""The line of a program that made a block, out of a stack of Python frames."""

import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import torch

Frame = Mapping[str, Any]
"""As the allocator's history gives them: name, filename, line; innermost first."""

TORCH = f"{Path(torch.__file__).parent}/"
RUNNER = f"{Path(__file__).parent}/"
MODELS = f"{Path(__file__).parents[1] / 'models'}/"
"""Modules of memplan's own: to a program that trains them a library."""
LIBRARIES = tuple(
    {sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")}
)
COMPILED = os.environ.get(
    "TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_"
)
"""Where torch.compile keeps the code it writes."""
PASSING_ON = (
    "accelerate/accelerator.py",
    "accelerate/optimizer.py",
    "accelerate/utils/deepspeed.py",
    "deepspeed/runtime/engine.py",
    "deepspeed/utils/nvtx.py",
    "lightning/fabric/",
    "lightning/pytorch/",
    "peft/peft_model.py",
    "pytorch_lightning/",
    "transformers/modeling_layers.py",
    "transformers/trainer.py",
    "transformers/utils/generic.py",
    "transformers/utils/output_capturing.py",
)
"""Files of libraries that call what others wrote: a line of theirs says nothing."""


def line_of(frames: Sequence[Frame]) -> str:
    """`train.py:12 main`, with the library's line in parentheses where it was there.

    The user's line is the innermost one outside of libraries; the library's the
    innermost outside of PyTorch and of what only passes calls on.
    """
    library = user = ""
    for frame in frames:
        kind = _kind(frame["filename"])
        if kind == "user":
            user = _text(frame)
            break
        if kind == "library" and not library:
            library = _text(frame)
    if user and library:
        return f"{user} ({library})"
    return user or library


def line_here() -> str:
    """The line that this thread is in."""
    return line_of(
        [
            {
                "filename": frame.f_code.co_filename,
                "line": frame.f_lineno,
                "name": frame.f_code.co_name,
            }
            for frame in _callers()
        ]
    )


def is_called_in(filename: str) -> bool:
    """Whether this thread is in a function of a file."""
    return any(frame.f_code.co_filename == filename for frame in _callers())


def _callers() -> Iterator[FrameType]:
    """The frames of this thread, innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


@cache
def _kind(filename: str) -> str:
    """user, library, torch, or none of these."""
    if filename.startswith(TORCH):
        return "torch"
    if filename.startswith((RUNNER, COMPILED, "<")) or not filename:
        return "hidden"
    if filename.startswith(MODELS):
        return "library"
    if "site-packages" in filename or "dist-packages" in filename:
        return "hidden" if _short(filename).startswith(PASSING_ON) else "library"
    return "hidden" if filename.startswith(LIBRARIES) else "user"


def _text(frame: Frame) -> str:
    return f"{_short(frame['filename'])}:{frame['line']} {frame['name']}"


@cache
def _short(filename: str) -> str:
    """Below site-packages, or below where the program was started, or its name."""
    if filename.startswith(MODELS):
        return f"memplan/models/{filename.removeprefix(MODELS)}"
    for mark in ("site-packages/", "dist-packages/"):
        if mark in filename:
            return filename.rsplit(mark, 1)[1]
    relative = os.path.relpath(filename)
    return os.path.basename(filename) if relative.startswith("..") else relative
