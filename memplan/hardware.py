"""Which GPU is it, how much memory does CUDA see on it, and how fast is it?

One TOML file a card under profiles/gpus, its stem the slug. A card asked for by slug
costs one file, and an unknown name is an error, never a guess.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeVar

from memplan.errors import ProfileError, UnknownNameError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8")
ASSUMED_SMS = 108
"""Of a card whose number of multiprocessors is not known: those of an A100."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One model of card. A field is None, or a key absent, where it is not known."""

    slug: str
    """Name on the command line and in reports: `h100-80gb`."""

    name: str
    """The card as the driver names it. Cards of two sizes can share one name."""

    aliases: tuple[str, ...]
    """Other names the card can be asked for by."""

    architecture: str | None
    """NVIDIA's name of the generation, in lower case: `hopper`."""

    compute_capability: tuple[int, int] | None
    """Major and minor: (9, 0)."""

    num_sms: int | None
    """Streaming multiprocessors enabled on the card."""

    total_bytes: int
    """Bytes CUDA reports in total (`cudaMemGetInfo`), less than the size it is sold as.

    Drivers differ in what they keep for themselves, by up to about 1 %.
    """

    total_bytes_basis: Literal["reported", "rounded report", "nominal", "given"]
    """How well `total_bytes` is known.

    `reported`: to the byte. `rounded report`: a report that rounds, taken down to a
    MiB. `nominal`: the size it is sold as. `given`: by the user.
    """

    memory_bandwidth_bytes_per_s: int | None
    """Bytes a second between the card's memory and its SMs, at best."""

    peak_flops: Mapping[str, float] = field(hash=False)
    """Operations a second by precision, dense, from `PRECISIONS`."""

    context_bytes: int | None
    """Bytes a process holds outside PyTorch's allocator: the CUDA context, kernels."""

    context_basis: str | None
    """PyTorch release that `context_bytes` was measured with: `2.11 cu128`."""

    sources: Mapping[str, str] = field(hash=False)
    """Where the values are from, under `total_bytes`, `compute` and `context`."""


def gpu_names() -> tuple[str, ...]:
    """The slugs of the catalogue, sorted."""
    names = (entry.name for entry in _directory().iterdir())
    return tuple(sorted(n.removesuffix(".toml") for n in names if n.endswith(".toml")))


def find_gpu(name: str) -> Gpu:
    """The card with this slug, alias or driver name.

    Case does not matter, and a space or an underscore is as good as a hyphen.
    """
    wanted, slugs = _key(name), gpu_names()
    if wanted in slugs:
        return _load(wanted)
    for slug in slugs:
        # Parsing costs far more than reading: only a file with the name is parsed.
        if wanted in _key(_read(slug)) and wanted in _names(gpu := _load(slug)):
            return gpu
    raise UnknownNameError.of("GPU", name, _known_names())


def all_gpus() -> tuple[Gpu, ...]:
    """Every card of the catalogue, in the order of `gpu_names`."""
    return tuple(_load(slug) for slug in gpu_names())


def custom_gpu(base: Gpu | None, total_bytes: int) -> Gpu:
    """`base` with `total_bytes` of memory, or a card of which nothing else is known."""
    if total_bytes <= 0:
        raise ValueError(f"total_bytes must be positive, not {total_bytes}")
    given = {"total_bytes": "given by the user"}
    if base is not None:
        return replace(
            base,
            total_bytes=total_bytes,
            total_bytes_basis="given",
            sources={**base.sources, **given},
        )
    return Gpu(
        slug="custom",
        name="custom GPU",
        aliases=(),
        architecture=None,
        compute_capability=None,
        num_sms=None,
        total_bytes=total_bytes,
        total_bytes_basis="given",
        memory_bandwidth_bytes_per_s=None,
        peak_flops={},
        context_bytes=None,
        context_basis=None,
        sources=given,
    )


def _key(name: str) -> str:
    """The form in which names are compared."""
    return name.strip().lower().replace("_", "-").replace(" ", "-")


def _names(gpu: Gpu) -> set[str]:
    return {_key(name) for name in (gpu.slug, gpu.name, *gpu.aliases)}


def _known_names() -> Iterator[str]:
    for gpu in all_gpus():
        yield from _names(gpu)


def _directory() -> "Traversable":
    from importlib.resources import files  # here, as importing it takes milliseconds

    return files("memplan.profiles") / "gpus"


def _read(slug: str) -> str:
    return (_directory() / f"{slug}.toml").read_text(encoding="utf-8")


def _load(slug: str) -> Gpu:
    """One file of the catalogue, every key checked."""
    import tomllib

    try:
        return _gpu(slug, _flat(tomllib.loads(_read(slug))))
    except ValueError as error:  # also what text and TOML that cannot be read raise
        raise ProfileError(
            f"profiles/gpus/{slug}.toml is damaged: {error}.",
            hint="Reinstall memplan, or correct the file.",
        ) from error


def _flat(table: Mapping[str, object]) -> dict[str, object]:
    """Nested tables as `context.bytes`."""
    flat: dict[str, object] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": v for inner, v in _flat(value).items()}
        else:
            flat[key] = value
    return flat


def _gpu(slug: str, values: dict[str, object]) -> Gpu:
    """The card in `values`, which are used up."""
    has_context = any(key.startswith("context.") for key in values)
    groups = ("total_bytes", "compute", *(["context"] if has_context else []))
    rates = [p for p in PRECISIONS if f"peak_flops.{p}" in values]
    gpu = Gpu(
        slug=slug,
        name=_take(values, "name", _text),
        aliases=_take(values, "aliases", _texts),
        architecture=_take(values, "architecture", _text),
        compute_capability=_take(values, "compute_capability", _capability),
        num_sms=_take(values, "num_sms", _count),
        total_bytes=_take(values, "total_bytes", _count),
        total_bytes_basis=_take(values, "total_bytes_basis", _basis),
        memory_bandwidth_bytes_per_s=_take(
            values, "memory_bandwidth_bytes_per_s", _count
        ),
        peak_flops={p: _take(values, f"peak_flops.{p}", _rate) for p in rates},
        context_bytes=_take(values, "context.bytes", _count) if has_context else None,
        context_basis=_take(values, "context.torch", _text) if has_context else None,
        sources={g: _take(values, f"sources.{g}", _text) for g in groups},
    )
    if values:
        raise ValueError(f"{', '.join(sorted(values))} is not a key memplan knows")
    return gpu


def _take(values: dict[str, object], key: str, read: Callable[[object], T]) -> T:
    if key not in values:
        raise ValueError(f"{key} is missing")
    try:
        return read(values.pop(key))
    except ValueError as error:
        raise ValueError(f"{key} must be {error}") from None


def _text(value: object) -> str:
    if isinstance(value, str) and value:
        return value
    raise ValueError(f"a text, not {value!r}")


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, list):
        return tuple(_text(item) for item in value)
    raise ValueError(f"a list of texts, not {value!r}")


def _count(value: object) -> int:
    if isinstance(value, int) and value > 0:
        return value
    raise ValueError(f"a positive whole number, not {value!r}")


def _rate(value: object) -> float:
    if isinstance(value, float | int) and value > 0:
        return float(value)
    raise ValueError(f"a positive number, not {value!r}")


def _capability(value: object) -> tuple[int, int]:
    match str(value).split("."):
        case [major, minor] if major.isdecimal() and minor.isdecimal():
            return int(major), int(minor)
    raise ValueError(f"a text such as '9.0', not {value!r}")


def _basis(value: object) -> Literal["reported", "rounded report", "nominal"]:
    match value:
        case "reported" | "rounded report" | "nominal":
            return value
    raise ValueError(f"'reported', 'rounded report' or 'nominal', not {value!r}")
