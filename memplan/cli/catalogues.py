"""`memplan gpus`, `memplan models`, `memplan env`: what is known here."""

from dataclasses import asdict
from typing import Annotated

import typer

from memplan.cli.output import (
    Format,
    FormatOption,
    JsonOption,
    as_json,
    chosen,
    emit,
)


def gpus(
    output_format: FormatOption = Format.HUMAN, wants_json: JsonOption = False
) -> None:
    """List the GPUs of the catalogue."""
    from memplan.hardware import all_gpus

    cards = sorted(all_gpus(), key=lambda gpu: (gpu.total_bytes, gpu.slug))
    match chosen(output_format, wants_json):
        case Format.JSON:
            emit(as_json([_plain(asdict(card)) for card in cards]))
        case Format.QUIET:
            emit("\n".join(card.slug for card in cards))
        case Format.HUMAN:
            from memplan.views.terminal import show_gpus

            show_gpus(cards)


def models(
    output_format: FormatOption = Format.HUMAN, wants_json: JsonOption = False
) -> None:
    """List the presets; any Hugging Face id or config.json works too."""
    from memplan.models.catalogue import preset_names, read_preset

    presets = [{"name": name, **read_preset(name)} for name in preset_names()]
    match chosen(output_format, wants_json):
        case Format.JSON:
            emit(as_json(presets))
        case Format.QUIET:
            emit("\n".join(preset_names()))
        case Format.HUMAN:
            from memplan.models.catalogue import FAMILY_OF_MODEL_TYPE
            from memplan.views.terminal import show_models

            show_models(presets, sorted(FAMILY_OF_MODEL_TYPE))


def env(
    output_format: FormatOption = Format.HUMAN,
    wants_json: JsonOption = False,
    python: Annotated[
        str | None,
        typer.Option(
            "--python",
            metavar="PATH",
            help="The interpreter that will train, where it is not memplan's own.",
        ),
    ] = None,
) -> None:
    """Print versions, and what of this machine can rehearse. Runs no torch."""
    from memplan.views.environment import as_data, as_text
    from memplan.virtual import check

    versions, support = _versions(), check(python)
    if chosen(output_format, wants_json) is Format.JSON:
        emit(as_json(as_data(versions, support)))
    else:
        emit(as_text(versions, support))


def _versions() -> dict[str, str]:
    """Those that decide memplan's figures, for a bug report."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    facts = {
        "memplan": version("memplan"),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in ("torch", "transformers", "accelerate", "peft", "bitsandbytes"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed (the closed form does not need it)"
    from memplan.estimating.card import NEWEST_TORCH

    facts["newest torch whose constants are known"] = ".".join(map(str, NEWEST_TORCH))
    return facts


def _plain(data: dict[str, object]) -> dict[str, object]:
    """Mappings of a dataclass as plain dicts."""
    return {
        key: dict(value) if hasattr(value, "keys") else value  # type: ignore[call-overload]
        for key, value in data.items()
    }
