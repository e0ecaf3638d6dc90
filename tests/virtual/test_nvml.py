"""NVML through its own bindings, as programs and PyTorch ask it."""

import json

import pytest

from memplan.hardware import find_gpu
from memplan.units import MiB

pytest.importorskip("pynvml")

ASK = """
    import json
    import pynvml
    pynvml.nvmlInit()
    card = pynvml.nvmlDeviceGetHandleByIndex(1)
    uuid, bus = pynvml.nvmlDeviceGetUUID(card), pynvml.nvmlDeviceGetPciInfo(card).busId
    memory = pynvml.nvmlDeviceGetMemoryInfo(card, version=pynvml.nvmlMemory_v2)
    answers = {
        "count": pynvml.nvmlDeviceGetCount(),
        "name": pynvml.nvmlDeviceGetName(card),
        "by uuid": pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID(uuid)),
        "by bus": pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByPciBusId(bus)),
        "capability": pynvml.nvmlDeviceGetCudaComputeCapability(card),
        "hopper": pynvml.nvmlDeviceGetArchitecture(card)
        == pynvml.NVML_DEVICE_ARCH_HOPPER,
        "total": pynvml.nvmlDeviceGetMemoryInfo(card).total,
        "memory": [memory.total, memory.reserved, memory.free, memory.used],
        "utilization": pynvml.nvmlDeviceGetUtilizationRates(card).gpu,
        "power": pynvml.nvmlDeviceGetPowerUsage(card),
        "processes": len(pynvml.nvmlDeviceGetComputeRunningProcesses(card)),
        "graphics": len(pynvml.nvmlDeviceGetGraphicsRunningProcesses(card)),
        "sm clock": pynvml.nvmlDeviceGetClockInfo(card, pynvml.NVML_CLOCK_SM),
        "cuda": pynvml.nvmlSystemGetCudaDriverVersion() // 1000,
        "driver": pynvml.nvmlSystemGetDriverVersion(),
    }
    for ask in (
        lambda: pynvml.nvmlDeviceGetMigMode(card),
        lambda: pynvml.nvmlDeviceGetFanSpeed(card),
        lambda: pynvml.nvmlDeviceGetNvLinkState(card, 0),
        lambda: pynvml.nvmlDeviceGetEccMode(card),
    ):
        try:
            ask()
        except pynvml.NVMLError_NotSupported as error:
            answers.setdefault("refused", []).append(str(error))
    try:
        pynvml.nvmlDeviceGetHandleByIndex(2)
    except pynvml.NVMLError_InvalidArgument:
        answers["third"] = "invalid"
    pynvml.nvmlShutdown()
    try:
        pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError_Uninitialized:
        answers["after"] = "uninitialized"
    print(json.dumps(answers))
"""


def test_the_bindings_are_answered(run_on, cuda_torch):
    gpu = find_gpu("h100-80gb")
    answers = json.loads(run_on("h100-80gb", ASK, num_devices=2))
    assert answers.pop("sm clock") > 1000
    assert answers.pop("driver")
    assert answers == {
        "count": 2,
        "name": gpu.name,
        "by uuid": 1,
        "by bus": 1,
        "capability": [9, 0],
        "hopper": True,
        "total": gpu.total_bytes,
        "memory": [gpu.total_bytes, 0, gpu.total_bytes, 0],
        "utilization": 0,
        "power": 0,
        "processes": 0,
        "graphics": 0,
        "cuda": cuda_torch.cuda_major,
        "refused": ["Not Supported"] * 4,
        "third": "invalid",
        "after": "uninitialized",
    }


def test_torch_reads_what_it_holds(run_on):
    code = """
        import json, os, pynvml, torch
        block = torch.empty(100 * 2**20, dtype=torch.uint8, device="cuda")
        pynvml.nvmlInit()
        one, other = (pynvml.nvmlDeviceGetHandleByIndex(i) for i in (2, 0))
        processes = pynvml.nvmlDeviceGetComputeRunningProcesses(one)
        print(json.dumps({
            "used": torch.cuda.device_memory_used(),
            "by index": [pynvml.nvmlDeviceGetMemoryInfo(d).used for d in (one, other)],
            "mine": [p.pid == os.getpid() for p in processes],
            "listed": "uses      600.000 MB" in torch.cuda.list_gpu_processes(),
            "utilization": torch.cuda.utilization(),
            "uuid": "GPU-" + str(torch.cuda.get_device_properties(0).uuid)
            == pynvml.nvmlDeviceGetUUID(one),
        }))
    """
    variables = {"CUDA_VISIBLE_DEVICES": "2,1"}
    answers = json.loads(run_on("a100-80gb", code, variables=variables, num_devices=4))
    assert answers == {
        "used": 600 * MiB,
        "by index": [600 * MiB, 0],
        "mine": [True],
        "listed": True,
        "utilization": 0,
        "uuid": True,
    }
