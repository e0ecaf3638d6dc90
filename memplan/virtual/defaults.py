"""What a function of a CUDA library does that nobody wrote by hand.

Doing nothing is right for a routine that only computes: kernels do nothing here. It is
not for one that is asked something, above all for a size, since its answer decides what
the program allocates: such a call is answered with zeros, counted, and named in the
report. `classify` says which is which, from the names alone.
"""

import re
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What the generated function does before it returns 0, for success."""

    COMPUTE = "compute"
    """Nothing, rightly."""

    LAUNCH = "launch"
    """The same, on the stream that is the first thing in the handle, which is the first
    argument: where it is being captured, a node goes into the graph."""

    CREATE = "create"
    """Make an opaque block, and give its address through the first argument."""

    DESTROY = "destroy"
    """Free the block that the first argument is."""

    UNSUPPORTED = "unsupported"
    """Nothing, wrongly: the call is counted by name."""


@dataclass(frozen=True, slots=True)
class Default:
    """A generated function."""

    kind: Kind
    zeros: tuple[tuple[int, int], ...] = ()
    """What it answers with zeros: the position of each pointer, from 1 on and floating
    arguments not counted, and how many bytes it points to."""


COMPUTE = Default(Kind.COMPUTE)
LAUNCH = Default(Kind.LAUNCH)
CREATE = Default(Kind.CREATE)
DESTROY = Default(Kind.DESTROY)
UNSUPPORTED = Default(Kind.UNSUPPORTED)


def classify(library: str, function: str) -> Default:
    """The default of `function`, as exported by `library`: `libcublas`."""
    for pattern, default in DEFAULTS.get(library, ()):
        if pattern.fullmatch(function):
            return default
    return UNSUPPORTED


INT, SIZE = 4, 8


def _rows(
    prefix: str, *rows: tuple[str, Default]
) -> tuple[tuple[re.Pattern[str], Default], ...]:
    return tuple((re.compile(f"{prefix}({names})"), default) for names, default in rows)


def _asked(*positions: int, num_bytes: int = SIZE) -> Default:
    """Asked for numbers that it writes there."""
    return Default(Kind.UNSUPPORTED, tuple((at, num_bytes) for at in positions))


def _result(position: int, num_bytes: int) -> Default:
    """Computes a number: to the host, where the pointer mode says so."""
    return Default(Kind.COMPUTE, ((position, num_bytes),))


DEFAULTS = {
    "libcublas": _rows(
        "cublas",
        (r"Sdot_v2", _result(7, 4)),
        (r"Ddot_v2|Cdot[cu]_v2", _result(7, 8)),
        (r"Zdot[cu]_v2", _result(7, 16)),
        (r"(S|Sc)(asum|nrm2)_v2|I[sdcz]am(ax|in)_v2", _result(5, 4)),
        (r"(D|Dz)(asum|nrm2)_v2", _result(5, 8)),
        (r"[SDCZ]geqrfBatched", _result(7, 4)),  # the status of the arguments
        (r"[SDCZ](gels|getrs)Batched", _result(10, 4)),
        # Without a suffix they are of the oldest interface, which has no handles.
        (r"[SDCZ](gem[mv]|syrk|trsm)\w+|Hgemm\w*|Gemm\w+", LAUNCH),
        (r"XtCreate", CREATE),
        (r"XtDestroy", DESTROY),
        (r"(Xt)?Get\w+", UNSUPPORTED),
        (r"\w+", COMPUTE),
    ),
    "libcublasLt": _rows(
        "cublasLt",
        (r"MatrixTransform", COMPUTE),
        (r"\w+Init(_internal)?|Logger\w+|\w*Set\w+", COMPUTE),
    ),
    "libcudnn": _rows(
        "cudnn",
        (r"Get(Tensor|Filter)SizeInBytes", _asked(2)),
        (r"GetReduction(Indices|Workspace)Size", _asked(5)),
        (r"GetCTCLossWorkspaceSize_v8", _asked(6)),
        (r"GetCTCLossWorkspaceSize", _asked(9)),
        (r"GetNormalizationTrainingReserveSpaceSize", _asked(7)),
        (r"GetNormalizationForwardTrainingWorkspaceSize", _asked(11)),
        (r"GetNormalizationBackwardWorkspaceSize", _asked(13)),
        (r"GetMultiHeadAttnBuffers", _asked(3, 4, 5)),
        # The older way to convolutions, which PyTorch takes only where
        # TORCH_CUDNN_V8_API_DISABLED is set, finds no algorithm.
        (r"GetConvolution\w+WorkspaceSize", _asked(7)),
        (r"GetConvolution\w+Algorithm_v7", _asked(7, num_bytes=INT)),
        (r"FindConvolution\w+AlgorithmEx", _asked(10, num_bytes=INT)),
        (r"FindConvolution\w+Algorithm", _asked(7, num_bytes=INT)),
        (r"Create\w+", CREATE),
        (r"Destroy\w+", DESTROY),
        (r"(Set|Restore|RNNSet)\w+|\w+VersionCheck", COMPUTE),
        (r"(Get|Find|Make|Derive|Query|Backend)\w+", UNSUPPORTED),
        (r"\w+(Forward|Backward)\w*|CTCLoss\w*|Im2Col", COMPUTE),
        (r"(Transform|Add|Op|Scale|Reduce|Reorder)\w*", COMPUTE),
    ),
    "libcusparse": _rows(
        "cusparse",
        (r"(DenseToSparse|SparseToDense)_bufferSize", _asked(5)),
        (r"[SDCZ]gemvi_bufferSize", _asked(6, num_bytes=INT)),
        (r"SpVV_bufferSize|X(coo|csr|csc)sort_bufferSizeExt", _asked(7)),
        (r"[HSD]pruneDense2csrNnzByPercentage", _asked(8, num_bytes=INT)),
        (r"[SDCZ]csr(ic02|ilu02)_bufferSize", _asked(9, num_bytes=INT)),
        (r"[SDCZ]nnz|[HSD]pruneDense2csrNnz", _asked(9, num_bytes=INT)),
        (r"[SDCZ](csr(ic02|ilu02)|csru2csr|gtsv\w+)_bufferSizeExt", _asked(9)),
        (r"SpGEMMreuse_(copy|workEstimation)", _asked(9)),
        (r"SpGEMMreuse_nnz", _asked(9, 11, 13)),
        (r"[SDCZ]gebsr2gebsc_bufferSize", _asked(10, num_bytes=INT)),
        (r"[SDCZ]gebsr2gebsc_bufferSizeExt|Sp[MS]V_bufferSize", _asked(10)),
        (r"[SDCZ](bsr(ic02|ilu02)|csr2gebsr)_bufferSize", _asked(11, num_bytes=INT)),
        (r"[HSD]pruneCsr2csrNnzByPercentage|Xcsr2bsrNnz", _asked(11, num_bytes=INT)),
        (r"[SDCZ](bsr(ic02|ilu02)|csr2gebsr|gpsv\w+)_bufferSizeExt", _asked(11)),
        (r"(Sp[MS]M|SDDMM)_bufferSize", _asked(11)),
        (r"[HSD]pruneDense2csr(ByPercentage)?_bufferSizeExt", _asked(11)),
        (r"[SDCZ]bsrsv2_bufferSize", _asked(12, num_bytes=INT)),
        (r"[HSD]pruneCsr2csrNnz|Xcsr2gebsrNnz", _asked(12, num_bytes=INT)),
        (r"[SDCZ]bsrsv2_bufferSizeExt", _asked(12)),
        (r"SpGEMM_(compute|workEstimation)", _asked(12)),
        (r"SpGEMM_estimateMemory", _asked(12, 14)),
        (r"[SDCZ](bsrsm2|gebsr2gebsr)_bufferSize", _asked(14, num_bytes=INT)),
        (r"Xcsrgeam2Nnz", _asked(14, num_bytes=INT)),
        (r"[SDCZ](bsrsm2|gebsr2gebsr)_bufferSizeExt", _asked(14)),
        (r"[HSD]pruneCsr2csr(ByPercentage)?_bufferSizeExt", _asked(14)),
        (r"Xgebsr2gebsrNnz", _asked(15, num_bytes=INT)),
        (r"Csr2cscEx2_bufferSize", _asked(15)),
        (r"SpMMOp_createPlan", _asked(16)),
        (r"[SDCZ]csrgeam2_bufferSizeExt", _asked(20)),
        (r"CreateIdentityPermutation", COMPUTE),
        (r"Create\w*|\w+_createDescr", CREATE),
        (r"Destroy\w*|\w+_destroyDescr", DESTROY),
        (r"\w*Get\w+", UNSUPPORTED),
        (r"\w+", COMPUTE),
    ),
    "libcusolver": _rows(
        "cusolver(Dn|Sp|Rf|Mg)?",
        (r"[SDCZ](gebrd|gesvd)_bufferSize", _asked(4, num_bytes=INT)),
        (r"[SDCZ]sytrf_bufferSize", _asked(5, num_bytes=INT)),
        (r"IRSXgesv_bufferSize", _asked(5)),
        (r"[SDCZ](geqrf|getrf|lauum|potrf|potri)_bufferSize", _asked(6, num_bytes=INT)),
        (r"IRSXgels_bufferSize", _asked(6)),
        (r"[SDCZ](orgtr|ungtr|sytri)_bufferSize", _asked(7, num_bytes=INT)),
        (r"[SDCZ](he|sy)ev(d|j|jBatched)_bufferSize", _asked(8, num_bytes=INT)),
        (r"[SDCZ](or|un)gqr_bufferSize", _asked(8, num_bytes=INT)),
        (r"Xtrtri_bufferSize", _asked(8, 9)),
        (r"[SDCZ](he|sy)trd_bufferSize", _asked(9, num_bytes=INT)),
        (r"[SDCZ](or|un)gbr_bufferSize", _asked(9, num_bytes=INT)),
        (r"X(getrf|potrf)_bufferSize", _asked(9, 10)),
        (r"Xcsrperm_bufferSizeHost", _asked(10)),
        (r"[SDCZ](he|sy)gv[dj]_bufferSize", _asked(11, num_bytes=INT)),
        (r"Xgeqrf_bufferSize|[SDCZ]csrqrBufferInfoBatched", _asked(11, 12)),
        (r"[SDCZ](gesvdjBatched|heevdx|syevdx)_bufferSize", _asked(12, num_bytes=INT)),
        (r"[SDCZ](or|un)m(qr|tr)_bufferSize", _asked(12, num_bytes=INT)),
        (r"[SDCZ][SDCZBHXEKY](gels|gesv)_bufferSize", _asked(12)),
        (r"X(syevBatched|syevd|sytrs)_bufferSize", _asked(12, 13)),
        (r"[SDCZ]gesvdj_bufferSize", _asked(13, num_bytes=INT)),
        (r"[SDCZ](he|sy)gvdx_bufferSize", _asked(15, num_bytes=INT)),
        (r"Xlarft_bufferSize", _asked(16, 17)),
        (r"[SDCZ]gesvdaStridedBatched_bufferSize", _asked(17, num_bytes=INT)),
        (r"X(geev|syevdx)_bufferSize", _asked(18, 19)),
        (r"X(gesvd|gesvdp)_bufferSize", _asked(19, 20)),
        (r"Xgesvdr_bufferSize", _asked(22, 23)),
        (r"Create\w*", CREATE),
        (r"Destroy\w*", DESTROY),
        (r"\w*Get\w+|\w*[bB]ufferSize\w*", UNSUPPORTED),
        (r"\w+", COMPUTE),
    ),
    "libcufft": _rows(
        "cufft",
        (r"GetSize", _asked(2)),
        (r"Estimate[12]d", _asked(4)),
        (r"(GetSize|MakePlan)[12]d|Estimate3d", _asked(5)),
        (r"(GetSize|MakePlan)3d", _asked(6)),
        (r"EstimateMany", _asked(11)),
        (r"(GetSize|MakePlan)Many(64)?", _asked(12)),
        (r"Xt(GetSize|MakePlan)Many", _asked(13)),
        (r"(Xt)?(Exec|Set|Destroy)\w*", COMPUTE),
    ),
    "libcurand": _rows(
        "curand",
        (r"Create\w+", CREATE),
        (r"Destroy\w+", DESTROY),
        (r"(Generate|Set)\w*", COMPUTE),
    ),
    # Its descriptors lie in the caller's memory: there is nothing to make or to free.
    "libcusparseLt": _rows(
        "cusparseLt",
        (r"MatmulGetWorkspace", _asked(3)),
        (r"SpMMACompressedSize2?", _asked(3, 4)),
        (r"MatmulAlgGetAttribute", _asked(4, num_bytes=INT)),
        (r"\w*Get\w+", UNSUPPORTED),
        (r"\w+", COMPUTE),
    ),
    "libcupti": _rows(
        "cupti",
        (r"(Activity)?(Enable|Disable|Register|Flush|Set|Push)\w*", COMPUTE),
        (r"(Finalize|Unsubscribe)\w*", COMPUTE),
    ),
    "libnccl": _rows(
        "nccl",
        (r"Comm(Suspend|Resume|Revoke)|ResetDebugInit", COMPUTE),
        (r"GroupSimulateEnd", COMPUTE),
    ),
    "libcudart": _rows("cuda", (r"Profiler(Start|Stop)", COMPUTE)),
    "libcuda": _rows("cu", (r"Profiler(Start|Stop)", COMPUTE)),
}
"""By library: the first pattern that fits says what a function does, and one that none
fits is unsupported."""
