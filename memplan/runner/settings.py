"""What the parent asks of the runner, through MEMPLAN_RUNNER."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEADY_STEPS = 3
"""The first makes the optimizer's states, so the second and third are alike: with fewer
the last may not be the steady one."""

WARMUP_STEPS = 2
"""The first is still half watched; compiled regions may be compiled anew."""

DEVICES_OF_A_NODE = 8
"""Cards of one machine, and so ranks on it, as launchers number them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """One rehearsal or profile."""

    folder: Path
    """Where captures go."""
    steps: int = STEADY_STEPS
    """Training steps whose memory is watched."""
    timed_steps: int = 0
    """Steps after those, of which only the time is taken; none on a virtual card."""
    warmup_steps: int = WARMUP_STEPS
    """Steps before those, at least one: PyTorch has just been left alone."""
    counts_flops: bool = False
    """Whether the operations of one more step are counted."""
    rank: int | None = None
    """The rank that this one process plays, of `world_size`; None: as it is started."""
    world_size: int | None = None
    has_nccl: bool = True
    """Whether NCCL can do without the peers of that rank, as a virtual card's can."""
    snapshot: Path | None = None
    """Where torch's own snapshot goes, if anywhere."""

    @property
    def num_later_steps(self) -> int:
        """All steps after those that are watched."""
        timed = self.warmup_steps + self.timed_steps if self.timed_steps else 0
        return timed + self.counts_flops

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Settings":
        """From the parsed JSON."""
        snapshot = data.get("snapshot")
        return cls(
            folder=Path(data["folder"]),
            steps=data.get("steps", STEADY_STEPS),
            timed_steps=data.get("timed_steps", 0),
            warmup_steps=data.get("warmup_steps", WARMUP_STEPS),
            counts_flops=data.get("counts_flops", False),
            rank=data.get("rank"),
            world_size=data.get("world_size"),
            has_nccl=data.get("has_nccl", True),
            snapshot=Path(snapshot) if snapshot else None,
        )
