"""How fast the closed form is, in ratios within one run. See README.md beside this."""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from memplan import TrainingPlan, estimate, to_json

PLAN = TrainingPlan(model="llama-3.1-70b", gpu="h100-80gb", num_gpus=64, zero_stage=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    once = median_s(lambda: estimate(PLAN), 200)
    text = to_json(estimate(PLAN))
    round_trip = median_s(lambda: json.dumps(json.loads(text)), 200)
    results = {
        "estimate_s": once,
        "estimate_over_json_round_trip": once / round_trip,
        "cold_start_over_import_torch": cold_start(options.torch_python, options.runs),
    }
    print(json.dumps(results, indent=2))


def median_s(call: Callable[[], object], runs: int) -> float:
    """Median seconds of a call, after a few to warm up."""
    for _ in range(5):
        call()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def cold_start(torch_python: str, runs: int) -> float | None:
    """The whole process over importing torch; None where there is no torch."""
    memplan = [sys.executable, "-m", "memplan", "estimate", "llama-3.1-70b", "--json"]
    torch = [torch_python, "-c", "import torch"]
    ratios = []
    for _ in range(runs):
        ours, theirs = process_s(memplan), process_s(torch)
        if ours is None or theirs is None:
            return None
        ratios.append(ours / theirs)
    return statistics.median(ratios)


def process_s(command: list[str]) -> float | None:
    """Seconds of a process; None where it fails."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True)
    return time.perf_counter() - start if done.returncode == 0 else None


if __name__ == "__main__":
    main()
