"""Errors are those of CUDA, word for word."""

import ctypes

import pytest

from memplan.errors import VirtualDeviceError
from memplan.virtual.wheels import find_torch


@pytest.fixture(scope="module")
def run(run_bare):
    return run_bare(13)


def test_the_last_error_is_kept_until_it_is_asked_for(run):
    code = """
        print(cuda.cudaSetDevice(5), cuda.cudaPeekAtLastError(), end=" ")
        assert cuda.cudaSetDevice(0) == 0
        print(cuda.cudaGetLastError(), cuda.cudaGetLastError())
    """
    assert run(code) == "101 101 101 0"


def test_each_thread_has_a_last_error_of_its_own(run):
    code = """
        import threading
        assert cuda.cudaSetDevice(5) == 101
        seen = []
        thread = threading.Thread(target=lambda: seen.append(cuda.cudaGetLastError()))
        thread.start()
        thread.join()
        print(seen, cuda.cudaGetLastError())
    """
    assert run(code) == "[0] 101"


ALL_WORDS = """
for function in (cuda.cudaGetErrorName, cuda.cudaGetErrorString):
    function.restype = ctypes.c_char_p
for error in range(1100):
    name = cuda.cudaGetErrorName(error).decode()
    print(error, name, cuda.cudaGetErrorString(error).decode(), sep="|")
"""


def test_the_words_are_those_of_nvidias_library(run):
    try:
        path = find_torch().real("libcudart").path
    except VirtualDeviceError as error:
        pytest.skip(error.message)
    real = ctypes.CDLL(str(path))
    real.cudaGetErrorName.restype = real.cudaGetErrorString.restype = ctypes.c_char_p
    known = 0
    for line in run(ALL_WORDS).splitlines():
        number, name, sentence = line.split("|")
        if name == "unrecognized error code":
            continue
        known += 1
        assert name == real.cudaGetErrorName(int(number)).decode()
        assert sentence == real.cudaGetErrorString(int(number)).decode()
    assert known > 40


def test_the_drivers_words_are_those_of_the_runtime(run):
    code = """
        cuda.cudaGetErrorString.restype = ctypes.c_char_p
        for error in range(1100):
            words, name = ctypes.c_char_p(), ctypes.c_char_p()
            if driver.cuGetErrorString(error, byref(words)):
                continue
            assert driver.cuGetErrorName(error, byref(name)) == 0
            assert name.value.startswith(b"CUDA_"), name.value
            assert words.value == cuda.cudaGetErrorString(error), error
        print("the same words")
    """
    assert run(code) == "the same words"
