"""The card at hand: asked of the program's own PyTorch, found in the catalogue."""

import json
import os
import stat
import sys
import textwrap

import pytest

from memplan.errors import DeviceError
from memplan.running.card_at_hand import card_at_hand
from memplan.units import GiB

FACTS = {
    "torch": "2.14.1+cu130",
    "cuda": "13.0",
    "num_devices": 2,
    "name": "NVIDIA A100-SXM4-80GB",
    "total_bytes": 85_100_000_000,
    "compute_capability": [8, 0],
    "num_sms": 108,
    "is_virtual": False,
}


@pytest.fixture
def interpreter(tmp_path):
    """An interpreter whose PyTorch says this."""

    def answering(**changes):
        text = json.dumps({**FACTS, **changes})
        return printing(f"print('a sitecustomize says hello')\nprint({text!r})")

    def printing(code):
        file = tmp_path / f"python{len(list(tmp_path.iterdir()))}"
        file.write_text(f"#!{sys.executable}\n{textwrap.dedent(code)}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        return str(file)

    answering.printing = printing
    return answering


def test_a_card_is_found_by_name_with_the_memory_that_it_says(interpreter):
    here = card_at_hand(interpreter())
    assert here.gpu.slug == "a100-80gb"
    assert here.is_catalogued
    assert here.gpu.total_bytes == FACTS["total_bytes"]
    assert here.gpu.peak_flops["bf16"] == 312e12
    assert (here.num_devices, here.is_virtual) == (2, False)


@pytest.mark.parametrize(
    ("name", "size", "slug"),
    [
        ("NVIDIA GeForce RTX 3060", 12 * GiB, "rtx-3060-12gb"),
        ("NVIDIA GeForce RTX 3060", 8 * GiB, "nvidia-geforce-rtx-3060"),
        ("Tesla V100-SXM2-16GB", 16_935_682_048, "v100-16gb"),
        ("NVIDIA Fictional 9000", 48 * GiB, "nvidia-fictional-9000"),
    ],
)
def test_sizes_can_share_a_name_and_none_is_guessed(interpreter, name, size, slug):
    here = card_at_hand(interpreter(name=name, total_bytes=size))
    assert here.gpu.slug == slug
    assert here.gpu.total_bytes == size
    assert here.is_catalogued == (not slug.startswith("nvidia"))


def test_an_unknown_card_is_what_it_says_of_itself(interpreter):
    here = card_at_hand(interpreter(name="NVIDIA Fictional 9000", num_sms=7))
    assert (here.gpu.compute_capability, here.gpu.num_sms) == ((8, 0), 7)
    assert here.gpu.peak_flops == {}


@pytest.mark.parametrize(
    ("facts", "says", "hint"),
    [
        ({"num_devices": 0}, "There is no CUDA device here", "memplan rehearse"),
        ({"cuda": None, "torch": "2.12.0+cpu"}, "2.12.0.cpu .* without CUDA", "CUDA"),
        ({"torch": "2.10.1"}, "2.10.1 .* too old: measuring needs 2.11", "torch>=2.11"),
        ({"torch": None, "error": "No module named 'torch'"}, "has no torch", "python"),
    ],
)
def test_what_cannot_be_measured_with_is_said_in_one_sentence(
    interpreter, facts, says, hint
):
    with pytest.raises(DeviceError, match=says) as caught:
        card_at_hand(interpreter(**facts))
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "code", ["import sys; sys.exit('it is broken')", "print('hello')", ""]
)
def test_an_interpreter_that_does_not_answer_is_named(interpreter, code):
    python = interpreter.printing(code)
    with pytest.raises(DeviceError, match="cannot say what card it finds"):
        card_at_hand(python)
    with pytest.raises(DeviceError, match="cannot say what card it finds"):
        card_at_hand(os.path.dirname(python))


def test_the_virtual_card_says_that_it_is_one(card_variables, monkeypatch):
    for name, value in card_variables.items():
        monkeypatch.setenv(name, value)
    here = card_at_hand(sys.executable)
    assert here.is_virtual
    assert (here.gpu.slug, here.num_devices) == ("rtx-4090", 1)
