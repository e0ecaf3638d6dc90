"""Precision: what autocast casts to, over weights of a dtype.

The same for files and for runs that are looked at when training begins.
"""

from memplan.errors import PlanError

AUTOCAST = {
    "fp32": "no",
    "tf32": "no",
    "bf16-mixed": "bf16",
    "fp16-mixed": "fp16",
    "bf16-pure": "no",
}
"""By precision policies, in the words of accelerate; fp16-master, without autocast, has
no words in any of these files."""


def precision_of(autocast: str, trained: str, allows_tf32: bool = False) -> str:
    """The precision policy of autocast ("no", bf16, fp16) over weights of a dtype.

    Raises:
        PlanError: no policy is that.
    """
    match autocast, trained:
        case (("bf16" | "fp16"), "fp32"):
            return f"{autocast}-mixed"
        case (("no" | "bf16"), "bf16"):
            return "bf16-pure"
        case "no", "fp32":
            return "tf32" if allows_tf32 else "fp32"
    under = f" under autocast to {autocast}" if autocast != "no" else ""
    raise PlanError(
        f"Weights trained in {trained}{under} have no formula.",
        hint="Load the model in fp32 or bf16.",
    )
