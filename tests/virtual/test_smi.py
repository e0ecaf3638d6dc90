"""nvidia-smi as scripts ask it, a client of the virtual NVML."""

import subprocess

import pytest

from memplan.hardware import find_gpu
from memplan.units import MiB
from memplan.virtual import smi


@pytest.fixture
def nvidia_smi(virtual_env):
    """Runs `nvidia-smi` on two RTX 4090 and gives the finished process."""

    def run(*arguments):
        variables = virtual_env("rtx-4090", num_devices=2)
        return subprocess.run(
            ["nvidia-smi", *arguments], env=variables, capture_output=True, text=True
        )

    return run


def test_the_table_names_each_card_and_its_memory(nvidia_smi):
    done = nvidia_smi()
    total = find_gpu("rtx-4090").total_bytes // MiB
    assert done.returncode == 0
    assert done.stdout.count("NVIDIA GeForce RTX 4090") == 2
    assert f"0MiB / {total}MiB" in done.stdout
    assert len({len(line) for line in done.stdout.splitlines()}) == 1


def test_the_list_gives_uuids(nvidia_smi):
    first, second = nvidia_smi("-L").stdout.splitlines()
    assert first.startswith("GPU 0: NVIDIA GeForce RTX 4090 (UUID: GPU-")
    assert second.startswith("GPU 1:")


def test_queries_answer_with_units_and_a_header(nvidia_smi):
    fields = "index,memory.total,utilization.gpu,power.limit,compute_cap"
    done = nvidia_smi(f"--query-gpu={fields}", "--format=csv", "--id=1")
    total = find_gpu("rtx-4090").total_bytes // MiB
    assert done.stdout.splitlines() == [
        "index, memory.total [MiB], utilization.gpu [%], power.limit [W], compute_cap",
        f"1, {total} MiB, 0 %, [N/A], 8.9",
    ]


def test_queries_answer_without_them(nvidia_smi):
    done = nvidia_smi("--query-gpu=memory.used", "--format=csv,noheader,nounits")
    assert done.stdout == "0\n0\n"


def test_no_process_is_listed(nvidia_smi):
    done = nvidia_smi("--query-compute-apps=pid,used_memory", "--format=csv")
    assert done.stdout == "pid, used_memory [MiB]\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--query-gpu=colour", "--format=csv"], 2, '"colour" is not a valid field'),
        (["--query-gpu=name"], 2, "Invalid combination of input arguments"),
        (["--query-gpu=name", "--format=xml"], 2, "Invalid combination"),
        (["--reset"], 2, "Invalid combination of input arguments"),
        (["-L", "-i", "7"], 6, "No devices were found"),
    ],
    ids=["field", "no format", "format", "option", "device"],
)
def test_what_it_cannot_do_it_refuses_as_the_real_one(
    nvidia_smi, arguments, code, said
):
    done = nvidia_smi(*arguments)
    assert done.returncode == code
    assert said in done.stdout
    assert done.stderr == ""


def test_without_a_driver_it_says_so(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(smi.ctypes, "CDLL", missing)
    with pytest.raises(smi.SmiError, match="communicate with the NVIDIA driver") as e:
        smi.answer(["-L"])
    assert e.value.code == 9
