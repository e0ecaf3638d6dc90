"""Values as users type them, into the plan's own.

Each raises PlanError, quoting what was typed.
"""

import math

from memplan.errors import PlanError, UnknownNameError


def parse_count(text: str) -> int:
    """`7500000000`, `7.5e9`, `7.5B`: a whole number."""
    multiple = {"k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
    number, unit = text.strip().replace("_", ""), 1
    if number and number[-1].lower() in multiple:
        number, unit = number[:-1], multiple[number[-1].lower()]
    try:
        value = float(number) * unit
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value != int(value):
        raise PlanError(
            f"{text!r} is no count of parameters.", hint="Write it like 7.5e9 or 7.5B."
        )
    return int(value)


def parse_size(text: str) -> int:
    """`24GiB` (2**30), `80GB` (10**9), `24g` (10**9), or bytes."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(text.strip()))
    except (ValidationError, OverflowError, ValueError) as error:
        raise PlanError(
            f"{text!r} is no size.", hint="Write it like 24GiB, 80GB or 500MiB."
        ) from error


def parse_fraction(text: str) -> float:
    """`5%` or `0.05`."""
    number = text.strip()
    try:
        if number.endswith("%"):
            return float(number[:-1]) / 100
        return float(number)
    except ValueError as error:
        raise PlanError(
            f"{text!r} is no fraction.", hint="Write it like 5% or 0.05."
        ) from error


def check_limit(fraction: float | None) -> None:
    """Refuse a limit of --fail-over that nothing, or everything, would be within."""
    if fraction is not None and not 0 <= fraction < math.inf:
        raise PlanError(
            "--fail-over must be 0 or more.", hint="Write it like 5% or 0.05."
        )


def parse_targets(text: str) -> tuple[str, ...]:
    """`q_proj,v_proj`."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse_precision(text: str) -> str:
    """A precision policy under the names that other tools have for it."""
    key = text.strip().lower().removeprefix("torch.").replace("_", "-")
    return _PRECISIONS.get(key, key)


def parse_dtype(text: str) -> str:
    """A dtype in its short form: bf16, bfloat16 and torch.bfloat16 are one."""
    key = text.strip().lower().removeprefix("torch.")
    return _DTYPES.get(key, key)


def parse_checkpointing(text: str) -> str:
    """none, full, selective or every-N; true and false as the Trainer takes them."""
    key = text.strip().lower().replace("_", "-")
    return {"true": "full", "false": "none", "yes": "full", "no": "none"}.get(key, key)


def parse_attention(text: str) -> str:
    """An attention kernel under memplan's or transformers' name."""
    key = text.strip().lower().replace("-", "_")
    if key == "flex_attention":
        raise UnknownNameError.of("attention", text, ("auto", "eager", "flash"))
    return _ATTENTIONS.get(key, key)


_PRECISIONS = {
    "no": "fp32",
    "float32": "fp32",
    "bf16": "bf16-mixed",
    "bfloat16": "bf16-mixed",
    "fp16": "fp16-mixed",
    "float16": "fp16-mixed",
    "half": "fp16-mixed",
}
_DTYPES = {
    "float32": "fp32",
    "float": "fp32",
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
}
_ATTENTIONS = {
    "sdpa": "auto",
    "flash_attention_2": "flash",
    "flash_attention": "flash",
    "memory_efficient": "efficient",
}
