"""memplan: how much GPU memory a training run takes, and what to change.

from memplan import TrainingPlan, estimate

report = estimate(TrainingPlan(model="llama-2-7b", gpu="a100-80gb"))
"""

from memplan.errors import MemplanError
from memplan.estimate import estimate
from memplan.plan import TrainingPlan
from memplan.report import MemoryReport, from_json, to_json

__all__ = [
    "MemoryReport",
    "MemplanError",
    "TrainingPlan",
    "estimate",
    "from_json",
    "to_json",
]
