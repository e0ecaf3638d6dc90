"""What a function does that nobody wrote by hand."""

import re
import site
from pathlib import Path

import pytest

from memplan.virtual.defaults import DEFAULTS, Kind, classify
from memplan.virtual.exports import exports_of
from memplan.virtual.libraries import LIBRARIES


@pytest.mark.parametrize(
    ("library", "function", "kind"),
    [
        ("libcublas", "cublasSgemm_v2", Kind.LAUNCH),
        ("libcublas", "cublasGemmStridedBatchedEx", Kind.LAUNCH),
        ("libcublas", "cublasSetVector", Kind.COMPUTE),
        ("libcublas", "cublasGetLoggerCallback", Kind.UNSUPPORTED),
        ("libcublasLt", "cublasLtMatrixTransform", Kind.COMPUTE),
        ("libcublasLt", "cublasLtMatmulAlgoCapGetAttribute", Kind.UNSUPPORTED),
        ("libcudnn", "cudnnBatchNormalizationForwardTrainingEx", Kind.COMPUTE),
        ("libcudnn", "cudnnCreateRNNDescriptor", Kind.CREATE),
        ("libcudnn", "cudnnDestroyRNNDescriptor", Kind.DESTROY),
        ("libcudnn", "cudnnGetReductionWorkspaceSize", Kind.UNSUPPORTED),
        ("libcudnn", "cudnnFindConvolutionForwardAlgorithmEx", Kind.UNSUPPORTED),
        ("libcusparse", "cusparseSpMM", Kind.COMPUTE),
        ("libcusparse", "cusparseSpGEMM_createDescr", Kind.CREATE),
        ("libcusparse", "cusparseSpMM_bufferSize", Kind.UNSUPPORTED),
        ("libcusolver", "cusolverDnCreate", Kind.CREATE),
        ("libcusolver", "cusolverDnSgetrf", Kind.COMPUTE),
        ("libcusolver", "cusolverDnSgetrf_bufferSize", Kind.UNSUPPORTED),
        ("libcufft", "cufftXtExec", Kind.COMPUTE),
        ("libcufft", "cufftXtMakePlanMany", Kind.UNSUPPORTED),
        ("libcurand", "curandGenerateUniform", Kind.COMPUTE),
        ("libcusparseLt", "cusparseLtMatDescriptorDestroy", Kind.COMPUTE),
        ("libcupti", "cuptiActivityEnable", Kind.COMPUTE),
        ("libcufile", "cuFileRead", Kind.UNSUPPORTED),
        ("libnccl", "ncclDevCommCreate", Kind.UNSUPPORTED),
        ("libcudart", "cudaImportExternalMemory", Kind.UNSUPPORTED),
        ("libother", "anything", Kind.UNSUPPORTED),
    ],
)
def test_a_name_says_what_doing_nothing_means(library, function, kind):
    assert classify(library, function).kind is kind


def test_every_library_of_the_table_is_one_that_is_played():
    assert set(DEFAULTS) <= {library.name for library in LIBRARIES}


def test_what_is_destroyed_can_be_created():
    for library, rows in DEFAULTS.items():
        kinds = {default.kind for _, default in rows}
        assert (Kind.DESTROY in kinds) == (Kind.CREATE in kinds), library


# ---- against NVIDIA's headers, where the wheels bring them --------------------------

HEADERS = {
    "libcusparse": ["cu13/include/cusparse.h"],
    "libcusolver": ["cu13/include/cusolverDn.h", "cu13/include/cusolverSp.h"],
    "libcufft": ["cu13/include/cufft.h", "cu13/include/cufftXt.h"],
    "libcusparseLt": ["cusparselt/include/cusparseLt.h"],
}
FLOATING = re.compile(r"(float|double|cuComplex|cuDoubleComplex)\b[^*]*$")
ASKED = re.compile(r"(int|size_t) ?\*.*(size|work|bytes|nnztotal)", flags=re.I)
POLICY = {"cufftXtSetWorkAreaPolicy"}
"""It is told a size, through a pointer."""


def declarations(header):
    text = header.read_text(errors="replace")
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.S)
    for name, arguments in re.findall(r"\b(cu\w+)\s*\(([^;{()]*)\)\s*;", text):
        yield name, [" ".join(part.split()) for part in arguments.split(",")]


def asked_of(arguments):
    """Where numbers are written, floating arguments not counted."""
    counted = [part for part in arguments if not FLOATING.match(part)]
    return tuple(
        (at, 4 if part.startswith("int") else 8)
        for at, part in enumerate(counted, 1)
        if ASKED.match(part)
    )


@pytest.mark.parametrize("library", HEADERS)
def test_sizes_are_answered_where_the_headers_say(library):
    paths = [
        Path(folder) / "nvidia" / header
        for folder in site.getsitepackages()
        for header in HEADERS[library]
    ]
    found = [item for path in paths if path.is_file() for item in declarations(path)]
    if not found:
        pytest.skip(f"the headers of {library} are not installed")
    sizes = {name: asked_of(arguments) for name, arguments in found}
    wrong = {
        name: (classify(library, name).zeros, asked)
        for name, asked in sizes.items()
        if asked and name not in POLICY and classify(library, name).zeros != asked
    }
    assert wrong == {}


def test_no_size_is_taken_for_a_routine(cuda_torch):
    for real in cuda_torch.libraries:
        if real.path is None:
            continue
        library = real.library
        for name in exports_of(real.path, library.prefixes).functions:
            if re.search(r"[bB]ufferSize|GetSize|WorkspaceSize", name):
                assert classify(library.name, name).kind is Kind.UNSUPPORTED, name
