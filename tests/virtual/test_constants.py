"""The numbers that the C sources declare are those of NVIDIA's own headers."""

import importlib
import re
import site
from pathlib import Path

import pytest

from memplan.virtual.libraries import SOURCE

HEADERS = {
    "cudnn": [f"cudnn/include/cudnn_{part}.h" for part in ("graph", "ops", "adv")],
    "nccl": ["nccl/include/nccl.h"],
    "cublas": ["cu13/include/cublas_api.h"],
    "cublaslt": ["cu13/include/cublas_api.h"],
    "cusparse": ["cu13/include/cusparse.h"],
    "cusparselt": ["cu13/include/cusparse.h"],
    "cusolver": ["cu13/include/cusolver_common.h"],
    "curand": ["cu13/include/curand.h"],
    "cufft": ["cu13/include/cufft.h"],
    "cupti": ["cu13/include/cupti_result.h"],
    "versions": ["cu13/include/library_types.h"],
}
PREFIX = re.compile(r"(CU[A-Z]+_|nccl[A-Z]|NVML_|[A-Z]+_(VERSION|LEVEL)\b)")


def enumerators(text):
    """Every name of an enum with its number, as C counts them."""
    found = {}
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.S)
    text = re.sub(r"^\s*#(?:[^\n]*\\\n)*[^\n]*", "", text, flags=re.M)
    for body in re.findall(r"\benum\b\s*\w*\s*\{([^}]*)\}", text):
        number = -1
        for item in filter(None, (part.strip() for part in body.split(","))):
            name, _, value = (part.strip() for part in item.partition("="))
            # A name may be followed by a macro that marks it as deprecated.
            name = name.split()[0]
            try:
                number = int(value, 0) if value else number + 1
            except ValueError:
                number = found.get(value, number + 1)
            found[name] = number
    return found


def declared(stem):
    """What the sources of a library declare under NVIDIA's names."""
    numbers = {}
    for pattern in (f"{stem}.[ch]", f"{stem}_*.[ch]"):
        for path in SOURCE.glob(pattern):
            numbers |= enumerators(path.read_text())
    return {name: n for name, n in numbers.items() if PREFIX.match(name)}


def wheels():
    return [Path(p) / "nvidia" for p in site.getsitepackages()]


@pytest.mark.parametrize("stem", HEADERS)
def test_numbers_are_those_of_the_headers(stem):
    real = {}
    for header in HEADERS[stem]:
        for folder in wheels():
            if (folder / header).is_file():
                real |= enumerators((folder / header).read_text(errors="replace"))
    if not real:
        pytest.skip(f"the headers of {stem} are not installed")
    numbers = declared(stem)
    assert numbers
    assert numbers == {name: real.get(name) for name in numbers}


def test_numbers_of_nvml_are_those_of_its_bindings():
    bindings = pytest.importorskip("pynvml")
    numbers = declared("nvml")
    there = {
        name: getattr(bindings, name)
        for name in numbers
        if isinstance(getattr(bindings, name, None), int)
    }
    assert there == {name: numbers[name] for name in there}
    assert {"NVML_ERROR_NOT_SUPPORTED", "NVML_DEVICE_ARCH_HOPPER"} <= set(there)


def test_every_function_that_the_bindings_of_nvml_look_up_is_there():
    bindings = pytest.importorskip("pynvml")
    text = Path(importlib.import_module(bindings.__name__).__file__).read_text()
    asked = set(re.findall(r'_nvmlGetFunctionPointer\("(\w+)"\)', text))
    sources = "".join(path.read_text() for path in SOURCE.glob("nvml*.c"))
    written = set(re.findall(r"\b(nvml[A-Z]\w+)\s*\(", sources))
    listed = set(re.findall(r"^[A-Z_]+\((nvml\w+)\)", sources, flags=re.M))
    assert asked - written - listed == set()
