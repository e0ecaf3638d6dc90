"""What the parent asks of the runner, through MEMPLAN_RUNNER."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """One rehearsal or profile."""

    folder: Path
    """Where captures go."""
    steps: int = 3
    """How many training steps to run."""
    virtual: bool = True
    """Whether the card is the virtual one."""
    rank: int | None = None
    """The rank that this one process plays, of `world_size`; None: as it is started."""
    world_size: int | None = None
    snapshot: Path | None = None
    """Where torch's own snapshot goes, if anywhere."""

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Settings":
        """From the parsed JSON."""
        snapshot = data.get("snapshot")
        return cls(
            folder=Path(data["folder"]),
            steps=data.get("steps", 3),
            virtual=data.get("virtual", True),
            rank=data.get("rank"),
            world_size=data.get("world_size"),
            snapshot=Path(snapshot) if snapshot else None,
        )
