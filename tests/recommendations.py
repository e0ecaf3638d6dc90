"""A recommendation made by hand: no formula can change its figures."""

from datetime import date

from memplan.plan import TrainingPlan
from memplan.searching.prices import Price
from memplan.searching.recommendation import (
    Choice,
    Confirmation,
    Loser,
    Recommendation,
)
from memplan.searching.throughput import Throughput
from memplan.units import GiB

PLAN = TrainingPlan(model="gpt2")


def throughput(samples_per_s=10.0, tokens_per_s=10240.0):
    return Throughput(
        step_s=64 / samples_per_s,
        computing_s=60 / samples_per_s,
        communication_s=4 / samples_per_s,
        samples_per_s=samples_per_s,
        tokens_per_s=tokens_per_s,
        of_peak_fraction=0.375,
    )


def price(usd_per_hour=8.0, as_of=date(2026, 5, 1)):
    return Price(
        provider="Somebody",
        usd_per_hour=usd_per_hour,
        billed_gpus=4,
        as_of=as_of,
        source="https://example.org/prices",
    )


def choice(num_gpus=4, samples_per_s=10.0, usd_per_hour=8.0, **changes):
    asked = None if usd_per_hour is None else price(usd_per_hour)
    found = None if samples_per_s is None else throughput(samples_per_s)
    per_sample = None
    if asked and found:
        per_sample = usd_per_hour / 3600 / samples_per_s
    given = {
        "gpu": "rtx-4090",
        "num_gpus": num_gpus,
        "plan": PLAN,
        "command": f"memplan estimate gpt2 --num-gpus {num_gpus}",
        "tricks": ("bf16-mixed", "adamw-8bit"),
        "need_bytes": 20 * GiB,
        "room_bytes": 22 * GiB,
        "throughput": found,
        "price": asked,
        "is_stale": False,
        "usd_per_million_samples": per_sample and 1e6 * per_sample,
        "usd_per_million_tokens": per_sample and 1e6 * per_sample / 1024,
        **changes,
    }
    return Choice(**given)


def recommendation(**changes):
    """Of four clusters: a stale price, no price, a refuted run, and no speed."""
    refuted = Confirmation(device_bytes=23 * GiB, fits=False)
    seen = Confirmation(device_bytes=21 * GiB, fits=True)
    given = {
        "memplan_version": "0.1.0",
        "plan": PLAN,
        "global_batch": 64,
        "budget_usd_per_hour": 20.0,
        "gpus": ("rtx-4090",),
        "max_gpus": 16,
        "tricks": ("bf16-mixed", "adamw-8bit"),
        "rank_by": "throughput",
        "choices": (
            choice(8, 19.0, 16.0, is_on_front=True, confirmed=refuted),
            choice(4, 10.0, 8.0, is_stale=True, is_on_front=True, confirmed=seen),
            choice(2, 5.0, None),
            choice(1, None, 2.0),
        ),
        "clusters_lost": (
            Loser(what="16 x rtx-4090", lost="over budget", reason="32.00 USD/h"),
        ),
        "beside_best": (
            Loser(what="zero-2", lost="slower", reason="by 7%, with 2 samples"),
            Loser(what="zero-3", lost="slower", reason="by 7%, with 2 samples"),
        ),
        "num_considered": 123456,
        "num_estimated": 321,
        "assumptions": ("no communication hides behind computing",),
        **changes,
    }
    return Recommendation(**given)
