"""The variables with which a program finds a virtual card."""

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memplan.hardware import custom_gpu, find_gpu
from memplan.units import GiB, MiB
from memplan.virtual import virtual_environment

PROPERTIES = """
    import json, torch
    card = torch.cuda.get_device_properties(0)
    print(json.dumps({
        "name": card.name,
        "capability": [card.major, card.minor],
        "total": card.total_memory,
        "sms": card.multi_processor_count,
        "threads": card.max_threads_per_multi_processor,
        "count": torch.cuda.device_count(),
        "free": torch.cuda.mem_get_info()[0],
    }))
"""


@pytest.mark.parametrize("name", ["h100-80gb", "rtx-4090", "t4", "b200"])
def test_torch_sees_the_card_of_the_profile(run_on, name):
    gpu = find_gpu(name)
    seen = json.loads(run_on(name, PROPERTIES, context_bytes=300 * MiB))
    assert seen["name"] == gpu.name
    assert tuple(seen["capability"]) == gpu.compute_capability
    assert (seen["total"], seen["sms"]) == (gpu.total_bytes, gpu.num_sms)
    assert seen["count"] == 1
    assert seen["free"] == gpu.total_bytes - 300 * MiB


def test_capacity_and_number_of_devices_are_the_callers(run_on):
    seen = json.loads(run_on("t4", PROPERTIES, total_bytes=24 * GiB, num_devices=4))
    assert (seen["total"], seen["count"]) == (24 * GiB, 4)


def test_visible_devices_stay_the_users(run_on):
    code = "import torch; print(torch.cuda.device_count())"
    visible = {"CUDA_VISIBLE_DEVICES": "1,3"}
    assert run_on("t4", code, num_devices=4, variables=visible) == "2"
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    assert run_on("t4", code, num_devices=4, variables=hidden) == "0"


def test_nvidia_smi_answers_for_the_card(run_on):
    code = """
        import subprocess
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        print(subprocess.run(query, capture_output=True, text=True, check=True).stdout)
    """
    assert run_on("rtx-4090", code) == "NVIDIA GeForce RTX 4090"


def test_nvidia_smi_needs_nothing_of_the_programs_environment(virtual_env, tmp_path):
    variables = virtual_env("t4")
    done = subprocess.run(
        ["nvidia-smi", "-L"],
        # Not even a home, and a search path that would shadow the standard library.
        env={**variables, "PYTHONPATH": str(tmp_path), "PYTHONHOME": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Tesla T4" in done.stdout


def environment(gpu="t4", **options):
    return virtual_environment(None, find_gpu(gpu), context_bytes=0, **options)


def test_what_the_user_preloads_and_finds_comes_after(cuda_torch):
    theirs = {"LD_PRELOAD": "libtheirs.so", "PATH": "/theirs"}
    variables = environment(environ=theirs).variables
    *ours, last = variables["LD_PRELOAD"].split(":")
    assert last == "libtheirs.so"
    assert os.path.basename(ours[0]).startswith("libcudart.so.")
    first, second = variables["PATH"].split(":")
    assert second == "/theirs"
    assert os.stat(f"{first}/nvidia-smi").st_mode & stat.S_IXUSR
    assert set(environment(environ={}).variables["LD_PRELOAD"].split(":")) == set(ours)


def test_cudnn_is_the_real_one_and_triton_finds_the_driver(cuda_torch):
    variables = environment().variables
    assert Path(variables["MEMPLAN_CUDNN"]).is_file()
    assert "nvidia/cudnn/lib" in variables["MEMPLAN_CUDNN"]
    assert (Path(variables["TRITON_LIBCUDA_PATH"]) / "libcuda.so.1").is_file()


def test_what_is_not_known_of_a_card_is_assumed_and_said(cuda_torch):
    unknown = custom_gpu(None, 24 * GiB)
    said = virtual_environment(None, unknown, context_bytes=0).assumptions
    assert any("multiprocessors assumed" in sentence for sentence in said)
    assert not environment("h100-80gb").assumptions


def test_once_built_it_takes_a_tenth_of_a_second_and_no_torch(cuda_torch):
    code = """if True:
        import os, sys
        from memplan.hardware import find_gpu
        gpu = find_gpu("t4")
        before = sum(os.times()[:4])
        from memplan.virtual import virtual_environment
        virtual_environment(None, gpu, context_bytes=0)
        print(sum(os.times()[:4]) - before)
        assert "torch" not in sys.modules and "elftools" not in sys.modules
    """

    def seconds():
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return float(done.stdout)

    environment()
    # Of this process and its children on a processor: the rest is others' work.
    assert min(seconds() for _ in range(5)) < 0.1


def test_preloading_takes_less_than_a_tenth_of_a_second(virtual_env):
    variables = {**os.environ, **virtual_env("h100-80gb")}

    def seconds(env):
        start = time.perf_counter()
        subprocess.run(["/bin/true"], env=env, check=True)
        return time.perf_counter() - start

    assert min(seconds(variables) for _ in range(5)) < 0.1
