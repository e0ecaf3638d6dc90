"""Which line of a stack a holder is told by."""

import sysconfig
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import memplan  # noqa: E402
from memplan.runner.lines import COMPILED, line_here, line_of  # noqa: E402

PACKAGES = sysconfig.get_path("purelib")
TORCH = (torch.nn.functional.__file__, 10, "linear")
LLAMA = (f"{PACKAGES}/transformers/models/llama/modeling_llama.py", 60, "forward")
CHECKPOINT = (f"{PACKAGES}/transformers/modeling_layers.py", 88, "__call__")
ACCELERATE = (f"{PACKAGES}/accelerate/optimizer.py", 186, "step")
MODEL = (str(Path("model.py").absolute()), 7, "forward")
MAIN = (str(Path("train.py").absolute()), 12, "main")
OWN = (f"{Path(memplan.__file__).parent}/models/pe_net/module.py", 5, "forward")
WRITTEN = (f"{COMPILED}/ab/cdef.py", 695, "call")
RUNNER = (f"{Path(memplan.__file__).parent}/runner/training/step.py", 50, "train")


@pytest.mark.parametrize(
    ("frames", "line"),
    [
        # The user's innermost line, and the library's where it was there.
        ((TORCH, MODEL, MAIN), "model.py:7 forward"),
        (
            (TORCH, LLAMA, CHECKPOINT, MAIN),
            "train.py:12 main (transformers/models/llama/modeling_llama.py:60 forward)",
        ),
        # What only passes calls on says nothing, nor what a compiler wrote.
        ((TORCH, WRITTEN, MODEL, MAIN), "model.py:7 forward"),
        ((TORCH, ACCELERATE, MAIN), "train.py:12 main"),
        ((TORCH, CHECKPOINT), ""),
        # Of a plan, there is no line of the user's.
        (
            (TORCH, LLAMA, CHECKPOINT, RUNNER),
            "transformers/models/llama/modeling_llama.py:60 forward",
        ),
        ((TORCH, OWN, RUNNER), "memplan/models/pe_net/module.py:5 forward"),
        ((TORCH, ACCELERATE, RUNNER), ""),
        ((), ""),
    ],
)
def test_the_line_that_says_most(frames, line):
    names = ("filename", "line", "name")
    assert line_of([dict(zip(names, frame, strict=True)) for frame in frames]) == line


def test_the_line_that_a_thread_is_in():
    assert "test_lines.py" in line_here()
