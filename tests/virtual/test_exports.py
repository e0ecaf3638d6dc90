"""What a library exports, and what the driver's header declares."""

import shutil

import layout
import pytest

from memplan.virtual.exports import driver_functions, exports_of
from memplan.virtual.libraries import LIBRARIES, SOURCE


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    if shutil.which("cc") is None:
        pytest.skip("needs cc")
    return layout.compile_template(tmp_path_factory.mktemp("template"))


def test_exports_are_the_functions_of_the_interface_and_their_version(template):
    exports = exports_of(template, ("cuda", "__cuda"))
    assert exports.functions == (
        "__cudaInitModule",
        "cudaMalloc",
        "cudaRuntimeGetVersion",
    )
    assert exports.version == "libreal.so.1"


def test_every_real_library_exports_its_interface(cuda_torch):
    for real in cuda_torch.libraries:
        if real.path is None:
            continue
        exports = exports_of(real.path, real.library.prefixes)
        assert len(exports.functions) > 20, real.soname
        assert exports.version in (real.soname, None)


def test_the_header_of_the_driver_declares_current_names_and_old_ones():
    header = """
    #define cuCtxCreate                         cuCtxCreate_v4
    #define cuStreamWriteValue32                cuStreamWriteValue32_v2
    #define CUDA_VERSION 13000
    CUresult CUDAAPI cuInit(unsigned int Flags);
    CUresult CUDAAPI cuCtxCreate(CUcontext *pctx, unsigned int flags);
    typedef CUresult (CUDAAPI *PFN_cuInit)(unsigned int Flags);
    """
    assert driver_functions(header) == (
        "cuCtxCreate",
        "cuCtxCreate_v4",
        "cuInit",
        "cuStreamWriteValue32_v2",
    )


def test_every_source_belongs_to_one_library():
    owned = [path for library in LIBRARIES for path in library.sources()]
    assert sorted(owned) == sorted(SOURCE.glob("*.c"))


def test_libraries_before_those_linked_against_them():
    assert LIBRARIES[0].name == "libcudart"
    names = [library.name for library in LIBRARIES]
    assert names.index("libcublasLt") < names.index("libcublas")
