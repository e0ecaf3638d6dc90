"""How fast plans are searched, in ratios within one run. See README.md beside this."""

import json
import time

from estimate_speed import median_s

from memplan import TrainingPlan, estimate, recommend

GPUS = ("a100-80gb", "h100-80gb")
MODELS = ("llama-2-7b", "openflamingo-9b", "llama-3.1-70b")


def main() -> None:
    print(json.dumps({model: search(model) for model in MODELS}, indent=2))


def search(model: str) -> dict[str, float]:
    """One search of clusters up to 64 cards, each kind, without a budget."""
    plan = TrainingPlan(model=model, precision="fp32")
    estimate_s = median_s(lambda: estimate(plan), 50)
    start = time.perf_counter()
    found = recommend(plan, global_batch=256, gpus=GPUS)
    search_s = time.perf_counter() - start
    return {
        "considered": found.num_considered,
        "estimated": found.num_estimated,
        "search_s": search_s,
        "search_s_of_100_000": search_s / found.num_considered * 100_000,
        "search_over_estimates": search_s / (estimate_s * found.num_considered),
    }


if __name__ == "__main__":
    main()
