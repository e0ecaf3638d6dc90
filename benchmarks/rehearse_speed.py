"""How fast a rehearsal is, beside importing torch. See README.md beside this."""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

FULL_STEP = ["--precision", "bf16-pure", "--optim", "adamw-fused"]
FULL_STEP += ["--activation-checkpointing", "full"]
SHARDED = ["--num-gpus", "64", "--zero-stage", "3", "--sharding", "fsdp2"]
SHARDED += ["--precision", "bf16-mixed", "--activation-checkpointing", "full"]
PLANS = {
    "llama_2_7b_2_x_4096": [
        *("llama-2-7b", "--per-device-train-batch-size", "2", "--seq-len", "4096"),
        *FULL_STEP,
    ],
    "llama_3.1_8b_rank_0_of_64": ["llama-3.1-8b", "--seq-len", "8192", *SHARDED],
    "llama_3.1_70b_rank_0_of_64": ["llama-3.1-70b", "--seq-len", "8192", *SHARDED],
}


@dataclass(frozen=True, kw_only=True, order=True)
class Used:
    """What a command and all that it started took."""

    wall_s: float
    cpu_s: float
    host_bytes: int
    """Of the largest process."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", choices=PLANS, help="One of the plans.")
    options = parser.parse_args()
    rehearse = [sys.executable, "-m", "memplan", "rehearse", "--json"]
    # The device is built at first use: that is not what is timed here.
    measure([*rehearse, "gpt2", "--seq-len", "128"])
    results: dict[str, dict[str, float | int]] = {}
    for name, plan in PLANS.items():
        if options.only not in (None, name):
            continue
        runs = []
        for _ in range(options.runs):
            unit = measure([sys.executable, "-c", "import torch"])
            used = measure([*rehearse, *plan, "--gpu", "h100-80gb"])
            runs.append((used.cpu_s / unit.cpu_s, used))
        ratio, used = sorted(runs)[len(runs) // 2]
        results[name] = {"cpu_over_import_torch": round(ratio, 2), **asdict(used)}
    print(json.dumps(results, indent=2))


def measure(command: list[str]) -> Used:
    """Run a command to its end."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    report = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    does_not_fit = process.returncode == 1 and report  # which is an answer
    if process.returncode != 0 and not does_not_fit:
        raise SystemExit(f"{' '.join(command)} failed")
    return Used(
        wall_s=round(wall_s, 2),
        cpu_s=round(usage.ru_utime + usage.ru_stime, 2),
        host_bytes=usage.ru_maxrss * 1024,  # the kernel counts in KiB
    )


if __name__ == "__main__":
    main()
