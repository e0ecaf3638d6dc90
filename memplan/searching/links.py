"""How fast GPUs exchange what they share: bytes of a ring, and the links it runs over.

A ring of n ranks passes each byte on in n - 1 of n parts: gathering or scattering sends
(n-1)/n of the whole from each rank, reducing and sharing out again twice that
(Thakur, Rabenseifner, Gropp, 2005; Patarasu and Yuan, 2009, which NCCL follows).
"""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from memplan.hardware import Gpu
from memplan.units import GB

DEFAULT_GENERATION = 4
"""Of PCI Express, for a card of no known architecture."""


def all_gather_bytes(num_ranks: int, whole_bytes: float) -> float:
    """What each rank sends so that all have the whole; scattering sends as much."""
    return (num_ranks - 1) / num_ranks * whole_bytes


def all_reduce_bytes(num_ranks: int, whole_bytes: float) -> float:
    """What each rank sends so that all have the sum: it is scattered, then gathered."""
    return 2 * all_gather_bytes(num_ranks, whole_bytes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """The narrowest link of a ring, each way."""

    bytes_per_s: float
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Links:
    """What is known of nodes and of links, from profiles/links."""

    gpus_per_node: int
    network_bytes_per_s: float
    pcie_bytes_per_s: dict[int, float]
    pcie_generation: dict[str, int]
    nvlink_bytes_per_s: dict[str, float]
    """Both ways together, as datasheets have it."""

    def of(self, gpu: Gpu, num_gpus: int) -> Link:
        """The link that decides how fast a ring of so many cards is."""
        inside = self._inside(gpu)
        if num_gpus <= self.gpus_per_node:
            return inside
        if inside.bytes_per_s <= self.network_bytes_per_s:
            return inside
        gigabits = 8 * self.network_bytes_per_s / GB
        return Link(
            bytes_per_s=self.network_bytes_per_s,
            name=f"a network of {gigabits:.0f} Gb/s a GPU",
        )

    def _inside(self, gpu: Gpu) -> Link:
        """Within a node."""
        both_ways = self.nvlink_bytes_per_s.get(gpu.slug)
        if both_ways is not None:
            return Link(
                bytes_per_s=both_ways / 2,
                name=f"NVLink of {both_ways / GB:.0f} GB/s a GPU, both ways",
            )
        generation = self.pcie_generation.get(
            gpu.architecture or "", DEFAULT_GENERATION
        )
        return Link(
            bytes_per_s=self.pcie_bytes_per_s[generation],
            name=f"PCIe {generation} x16",
        )


@cache
def read_links() -> Links:
    """Those that are shipped."""
    file = files("memplan.profiles") / "links" / "links.toml"
    found = tomllib.loads(file.read_text(encoding="utf-8"))
    return Links(
        gpus_per_node=found["node"]["gpus"],
        network_bytes_per_s=found["node"]["network_bytes_per_s"],
        pcie_bytes_per_s={int(k): v for k, v in found["pcie_bytes_per_s"].items()},
        pcie_generation=found["pcie_generation"],
        nvlink_bytes_per_s=found["nvlink_bytes_per_s"],
    )
