"""What lies outside the allocator, and whose it is."""

import pytest

from memplan.units import MiB

pytest.importorskip("torch")

from memplan.runner import neighbours
from memplan.runner.neighbours import Usage

pytestmark = pytest.mark.slow

SHARED = """
    import os, torch
    from memplan.runner import outside
    from memplan.runner.neighbours import Usage

    MiB = 2**20
    outside.is_virtual = lambda: False
    others = 300 * MiB

    def used():
        free, total = torch.cuda.mem_get_info(0)
        return total - free

    def shared(reading):  # the card as it would be with somebody else on it
        return outside.Reading(
            reading.used_bytes + others, reading.reserved_bytes, reading.usage
        )

    read = outside.Outside._read
    outside.Outside._read = lambda self, device: shared(read(self, device))

    def seen_by(ask):
        seen = outside.Outside(ask)
        seen.attach()
        kept = torch.empty(64 * MiB, dtype=torch.uint8, device="cuda")
        content = seen.content(0)
        seen.detach()
        return content
"""


def test_others_are_told_apart_by_the_drivers_figure_of_this_process(on_card):
    content = on_card(
        SHARED,
        """
        def ask(device):
            own = used() if torch.cuda.memory_reserved() else 500 * MiB
            return Usage(own + others, {os.getpid(): own, 1: others})
        say(seen_by(ask))
        """,
    )
    assert content["at_end_bytes"] == content["at_start_bytes"] == 500 * MiB
    assert content["others_bytes"] == 300 * MiB
    assert content["basis"] == "NVML's figure of this process"


def test_in_a_container_it_is_the_process_that_was_not_there_before(on_card):
    content = on_card(
        SHARED,
        """
        calls = []
        def ask(device):
            calls.append(device)
            if len(calls) == 1:
                return Usage(others, {7001: others})
            return Usage(used() + others, {7001: others, 7002: used()})
        say(seen_by(ask))
        """,
    )
    assert content["others_bytes"] == 300 * MiB
    assert content["at_end_bytes"] == 500 * MiB
    assert content["basis"] == "NVML's figure of this process"


def test_where_no_process_is_named_what_was_used_before_is_others(on_card):
    content = on_card(SHARED, "say(seen_by(lambda device: Usage(others)))")
    assert content["others_bytes"] == 300 * MiB
    assert content["at_end_bytes"] == 500 * MiB
    assert "before CUDA came up" in content["basis"]


def test_where_nobody_can_be_asked_all_of_it_is_told_as_what_it_is(on_card):
    content = on_card(SHARED, "say(seen_by(lambda device: None))")
    assert content["others_bytes"] is None
    assert content["at_end_bytes"] == 800 * MiB
    assert "by whomever" in content["basis"]


def test_one_that_comes_late_says_so(on_card):
    content = on_card(
        SHARED,
        """
        torch.empty(1, device="cuda")
        say(seen_by(lambda device: None))
        """,
    )
    assert "CUDA was up already" in content["basis"]


def test_nvml_tells_of_the_card_and_of_its_processes(on_card):
    pytest.importorskip("pynvml")
    used, by_process, pid, expected = on_card(
        """
        import os, torch
        from memplan.runner.neighbours import usage_of

        kept = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
        usage = usage_of(0)
        free, total = torch.cuda.mem_get_info(0)
        say([usage.used_bytes, usage.by_process, os.getpid(), total - free])
        """
    )
    assert used == expected == 564 * MiB
    assert by_process == {str(pid): expected}


SMI = """#!/bin/sh
case "$*" in
  *--id=GPU-7*--query-gpu=memory.used*) echo "512" ;;
  *--id=GPU-7*--query-compute-apps*) echo "41, 300"; echo "42, [N/A]" ;;
  *) exit 6 ;;
esac
"""


def test_without_nvml_nvidia_smi_is_asked(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert neighbours._ask_smi("GPU-7") == Usage(512 * MiB, {41: 300 * MiB})
    assert neighbours._ask_smi("GPU-8") is None
    program.unlink()
    assert neighbours._ask_smi("GPU-7") is None
