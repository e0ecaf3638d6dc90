"""The types that the device declares lie in memory as NVIDIA's do.

The numbers below are what NVIDIA's headers give: those of nvidia-cuda-runtime 13.0.96
and nvidia-cuda-runtime-cu12 12.8.90. Where such a wheel is installed they are asked
again.
"""

import subprocess

import pytest

from memplan.errors import VirtualDeviceError
from memplan.virtual.compiler import find_compiler
from memplan.virtual.libraries import SOURCE
from memplan.virtual.wheels import find_torch

TYPES = {
    "cudaDeviceProp": """
        uuid luid luidDeviceNodeMask totalGlobalMem sharedMemPerBlock warpSize memPitch
        maxThreadsDim maxGridSize totalConstMem major minor textureAlignment
        multiProcessorCount integrated canMapHostMemory maxTexture1D maxTexture2D
        maxTexture3D maxTextureCubemap maxSurface1D maxSurfaceCubemapLayered
        surfaceAlignment concurrentKernels ECCEnabled pciBusID asyncEngineCount
        unifiedAddressing memoryBusWidth l2CacheSize persistingL2CacheMaxSize
        maxThreadsPerMultiProcessor streamPrioritiesSupported sharedMemPerMultiprocessor
        regsPerMultiprocessor managedMemory hostNativeAtomicSupported
        pageableMemoryAccess cooperativeLaunch sharedMemPerBlockOptin
        maxBlocksPerMultiProcessor accessPolicyMaxWindowSize reservedSharedMemPerBlock
        hostRegisterSupported timelineSemaphoreInteropSupported memoryPoolsSupported
        memoryPoolSupportedHandleTypes ipcEventSupported clusterLaunch
        unifiedFunctionPointers""",
    "cudaPointerAttributes": "type device devicePointer hostPointer",
    "cudaFuncAttributes": """
        sharedSizeBytes maxThreadsPerBlock numRegs ptxVersion binaryVersion
        maxDynamicSharedSizeBytes preferredShmemCarveout
        nonPortableClusterSizeAllowed""",
    "cudaLaunchConfig_t": "gridDim blockDim dynamicSmemBytes stream attrs numAttrs",
    "cudaLaunchAttribute": "id",
    "cudaMemcpy3DParms": "srcArray srcPos srcPtr dstArray dstPos dstPtr extent kind",
    "cudaIpcMemHandle_t": "",
    "cudaIpcEventHandle_t": "",
    "cudaMemPoolProps": "allocType location maxSize usage",
    "CUmemAllocationProp": "type location allocFlags",
    "CUlaunchConfig": "gridDimX blockDimX sharedMemBytes hStream attrs numAttrs",
}
ONLY_BEFORE_13 = {"cudaDeviceProp": "clockRate memoryClockRate deviceOverlap"}
ONLY_FROM_13 = {"cudaDeviceProp": "deviceNumaId hostNumaId"}


def numbers(text):
    return [int(word) for word in text.split()]


IN_BOTH: dict[str, list[int]] = {
    "cudaFuncAttributes": [144, 0, 24, 28, 32, 36, 44, 48, 72],
    "cudaLaunchConfig_t": [56, 0, 12, 24, 32, 40, 48],
    "cudaLaunchAttribute": [72, 0],
    "cudaMemcpy3DParms": [160, 0, 8, 32, 64, 72, 96, 128, 152],
    "cudaIpcMemHandle_t": [64],
    "cudaIpcEventHandle_t": [64],
    "cudaMemPoolProps": [88, 0, 8, 24, 32],
    "CUmemAllocationProp": [32, 0, 8, 24],
    "CUlaunchConfig": [56, 0, 12, 24, 32, 40, 48],
}
NVIDIA_12: dict[str, list[int]] = {
    **IN_BOTH,
    "cudaDeviceProp": numbers("""
        1032 256 272 280 288 296 308 312 324 336 352 360 364 368 388 396 400 408 420
        456 480 512 560 568 576 580 584 600 604 612 616 620 624 628 640 648 652 664
        672 688 696 712 716 720 728 740 744 760 768 772 776 348 608 384
    """),
    "cudaPointerAttributes": [24, 0, 4, 8, 16],
}
NVIDIA_13: dict[str, list[int]] = {
    **IN_BOTH,
    "cudaDeviceProp": numbers("""
        1008 256 272 280 288 296 308 312 324 336 352 360 364 368 384 388 392 396 404
        440 464 496 544 552 560 564 568 584 588 592 596 600 604 608 624 632 636 648
        652 668 672 688 692 696 704 716 720 736 744 748 752 760 768
    """),
    "cudaPointerAttributes": [88, 0, 4, 8, 16],
}
"""Size, then offsets, by type."""

OURS = '#include "runtime.h"\n#include "driver.h"\n'
NVIDIAS = "#include <cuda.h>\n#include <driver_types.h>\n" + "\n".join(
    f"typedef struct {name} {name};"
    for name in TYPES
    if name.startswith("cuda") and not name.endswith("_t") and "Launch" not in name
)


def layout(folder, cuda_major, headers, *options):
    """The size of each type, and the offsets of its fields, as a compiler sees them."""
    more = ONLY_FROM_13 if cuda_major >= 13 else ONLY_BEFORE_13
    lines = []
    for name, fields in TYPES.items():
        asked = [f"sizeof({name})"]
        for field in (fields + " " + more.get(name, "")).split():
            asked.append(f"offsetof({name}, {field})")
        parts = ", ".join(asked)
        lines.append(f'  show("{name}", {len(asked)}, (size_t[]){{{parts}}});')
    program = f"""#include <stddef.h>
#include <stdio.h>
{headers}
static void show(const char *name, int count, const size_t *numbers)
{{
  printf("%s", name);
  for (int i = 0; i < count; i++)
    printf(" %zu", numbers[i]);
  puts("");
}}

int main(void)
{{
{chr(10).join(lines)}
}}
"""
    (folder / "layout.c").write_text(program)
    macros = [f"-DVD_CUDA={cuda_major}", "-std=c11"]
    output = ["layout.c", "-o", "layout"]
    find_compiler().run([*macros, *options, *output], folder)
    done = subprocess.run(
        [folder / "layout"], capture_output=True, text=True, check=True
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    return {name: [int(number) for number in row] for name, *row in rows}


def write_what_the_wheels_lack(folder):
    """Two headers of the compiler of CUDA, which matter to its own code alone."""
    for name in ("nv/target", "crt/host_defines.h"):
        (folder / name).parent.mkdir(parents=True)
    (folder / "nv/target").write_text("")
    words = ("device_builtin", "cudart_builtin", "host", "device")
    macros = [f"#define __{word}__" for word in words]
    macros += [f"#define __{word}__(n)" for word in ("align", "builtin_align")]
    macros.append("#define CUDARTAPI")
    (folder / "crt/host_defines.h").write_text("\n".join(macros) + "\n")


@pytest.fixture(autouse=True)
def _compiler():
    try:
        find_compiler()
    except VirtualDeviceError as error:
        pytest.skip(error.message)


@pytest.mark.parametrize(("cuda_major", "expected"), [(12, NVIDIA_12), (13, NVIDIA_13)])
def test_types_lie_as_nvidias_do(tmp_path, cuda_major, expected):
    assert layout(tmp_path, cuda_major, OURS, f"-I{SOURCE}") == expected


def test_the_numbers_are_those_of_the_installed_headers(tmp_path):
    try:
        build = find_torch()
    except VirtualDeviceError as error:
        pytest.skip(error.message)
    if build.driver_header is None:
        pytest.skip("this torch brought no headers of CUDA")
    write_what_the_wheels_lack(tmp_path / "stub")
    expected = NVIDIA_13 if build.cuda_major >= 13 else NVIDIA_12
    options = (f"-I{build.driver_header.parent}", f"-I{tmp_path / 'stub'}")
    assert layout(tmp_path, build.cuda_major, NVIDIAS, *options) == expected
