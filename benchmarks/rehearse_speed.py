"""How fast a rehearsal is, beside importing torch. See README.md beside this."""

import argparse
import json
import os
import subprocess
import sys
import time

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    rehearse = [sys.executable, "-m", "memplan", "rehearse", "--json"]
    # The device is built at first use: that is not what is timed here.
    measure([*rehearse, "gpt2", "--seq-len", "128"])
    results: dict[str, dict[str, float | int]] = {}
    for name, plan in PLANS.items():
        runs = []
        for _ in range(options.runs):
            import_s, _ = measure([sys.executable, "-c", "import torch"])
            wall_s, host_bytes = measure([*rehearse, *plan, "--gpu", "h100-80gb"])
            runs.append((wall_s / import_s, wall_s, host_bytes))
        ratio, wall_s, host_bytes = sorted(runs)[len(runs) // 2]
        results[name] = {
            "over_import_torch": round(ratio, 2),
            "wall_s": round(wall_s, 2),
            "host_bytes": host_bytes,
        }
    print(json.dumps(results, indent=2))


def measure(command: list[str]) -> tuple[float, int]:
    """Seconds of a command, and the bytes of host memory of its largest process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):  # 1: it does not fit, which is an answer
        raise SystemExit(f"{' '.join(command)} failed")
    return wall_s, usage.ru_maxrss * 1024  # the kernel counts in KiB


if __name__ == "__main__":
    main()
