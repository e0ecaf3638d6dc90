"""A card of the catalogue as the virtual device is told of it.

The device reads one variable, `MEMPLAN_DEVICE`, "key=value;key=value;...", with the
fields of `vd_card` in `source/device.h`. The catalogue knows memory, compute capability
and number of SMs; the limits of an SM follow from the compute capability.
"""

from dataclasses import dataclass

from memplan.hardware import ASSUMED_SMS, Gpu
from memplan.units import KiB, MiB

ASSUMED_CAPABILITY = (8, 0)
"""Of a card of which this is not known: that of an A100."""
FIRST_CAPABILITY_OF_CUDA_13 = (7, 5)
"""CUDA 13 compiles for nothing older (release notes of the toolkit, 13.0)."""
COPY_LIMIT_BYTES = MiB
MAX_DEVICES = 16
"""VD_MAX_DEVICES of `source/device.h`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What an SM can hold at once, and figures of a large card that has such SMs."""

    threads_per_sm: int
    blocks_per_sm: int
    shared_per_sm: int
    shared_optin: int
    shared_reserved: int
    l2_bytes: int
    clock_khz: int
    bus_bits: int
    memory_clock_khz: int
    copy_engines: int


def _limits(
    threads: int,
    blocks: int,
    shared_kib: int,
    card: tuple[int, int, int, int, int],
    *,
    optin_kib: int | None = None,
    reserved_kib: int = 1,
) -> Limits:
    """`card`: L2 in bytes, clock in MHz, memory clock in MHz, bus, copy engines."""
    l2_bytes, clock_mhz, memory_clock_mhz, bus_bits, copy_engines = card
    optin = shared_kib - reserved_kib if optin_kib is None else optin_kib
    return Limits(
        threads_per_sm=threads,
        blocks_per_sm=blocks,
        shared_per_sm=shared_kib * KiB,
        shared_optin=optin * KiB,
        shared_reserved=reserved_kib * KiB,
        l2_bytes=l2_bytes,
        clock_khz=1000 * clock_mhz,
        bus_bits=bus_bits,
        memory_clock_khz=1000 * memory_clock_mhz,
        copy_engines=copy_engines,
    )


LIMITS = {
    (6, 0): _limits(  # P100
        2048, 32, 64, (4 * MiB, 1329, 715, 4096, 2), optin_kib=48, reserved_kib=0
    ),
    (6, 1): _limits(  # GTX 1080 Ti
        2048, 32, 96, (2816 * KiB, 1582, 5505, 352, 2), optin_kib=48, reserved_kib=0
    ),
    (7, 0): _limits(2048, 32, 96, (6 * MiB, 1530, 877, 4096, 6), reserved_kib=0),
    (7, 5): _limits(1024, 16, 64, (4 * MiB, 1590, 5001, 256, 3), reserved_kib=0),
    (8, 0): _limits(2048, 32, 164, (40 * MiB, 1410, 1593, 5120, 3)),
    (8, 6): _limits(1536, 16, 100, (6 * MiB, 1695, 9751, 384, 2)),
    (8, 9): _limits(1536, 24, 100, (72 * MiB, 2520, 10501, 384, 2)),
    (9, 0): _limits(2048, 32, 228, (50 * MiB, 1980, 2619, 5120, 3)),
    (10, 0): _limits(2048, 32, 228, (126 * MiB, 1965, 3996, 8192, 3)),
    (10, 3): _limits(2048, 32, 228, (126 * MiB, 1920, 3996, 8192, 3)),
    (12, 0): _limits(1536, 24, 100, (96 * MiB, 2407, 14001, 512, 2)),
}
"""By compute capability.

Threads, blocks and shared memory: CUDA programming guide, "Technical specifications per
compute capability", and the same in NVIDIA/cccl,
libcudacxx/include/cuda/__device/arch_traits.h. The five of the card: deviceQuery of
P100-PCIE, GTX 1080 Ti, V100-SXM2, T4, A100-SXM4-80GB, RTX 3090, RTX 4090, H100 80GB
HBM3 and RTX 5090 as their owners published it; for B200 and B300 NVIDIA's data sheets,
their L2 not confirmed by a deviceQuery. No allocation of PyTorch's own depends on these
five; cuDNN is told of L2 and clocks, and ranks its engines by the memory clock
(docs/virtual-device.md).
"""


@dataclass(frozen=True, slots=True)
class DeviceDescription:
    """What the device is told, and what of it nobody knew."""

    text: str
    """The value of `MEMPLAN_DEVICE`."""

    assumptions: tuple[str, ...]


def describe(
    gpu: Gpu,
    *,
    num_devices: int = 1,
    context_bytes: int,
    nccl_bytes: int = 0,
    driver_version: int,
    copy_limit_bytes: int = COPY_LIMIT_BYTES,
    addresses: str = "down",
) -> DeviceDescription:
    """`gpu` for the virtual device, `num_devices` times."""
    if not 1 <= num_devices <= MAX_DEVICES:
        raise ValueError(f"num_devices must be 1 to {MAX_DEVICES}, not {num_devices}")
    if addresses not in ("down", "up"):
        raise ValueError(f"addresses must be 'down' or 'up', not {addresses!r}")
    assumptions = []
    capability, num_sms = gpu.compute_capability, gpu.num_sms
    if capability is None:
        capability = ASSUMED_CAPABILITY
        assumptions.append(
            f"compute capability {_dotted(capability)} assumed: that of {gpu.name} is "
            "not known"
        )
    if num_sms is None:
        num_sms = ASSUMED_SMS
        assumptions.append(
            f"{num_sms} multiprocessors assumed: the number of {gpu.name} is not known"
        )
    limits, basis = _limits_of(capability)
    assumptions += basis
    if capability < FIRST_CAPABILITY_OF_CUDA_13 and driver_version >= 13000:
        assumptions.append(
            f"a real {gpu.name} cannot run this torch: CUDA 13 has no kernels for "
            f"compute capability {_dotted(capability)}"
        )
    values = {
        # Nothing but the name is free text.
        "name": gpu.name.translate({ord(";"): " ", ord("="): " "}),
        "count": num_devices,
        "total_bytes": gpu.total_bytes,
        "context_bytes": context_bytes,
        "nccl_bytes": nccl_bytes,
        "compute_capability": 10 * capability[0] + capability[1],
        "num_sms": num_sms,
        "threads_per_sm": limits.threads_per_sm,
        "blocks_per_sm": limits.blocks_per_sm,
        "shared_per_sm": limits.shared_per_sm,
        "shared_optin": limits.shared_optin,
        "shared_reserved": limits.shared_reserved,
        "l2_bytes": limits.l2_bytes,
        "clock_khz": limits.clock_khz,
        "memory_clock_khz": _memory_clock_khz(gpu, limits),
        "bus_bits": limits.bus_bits,
        "copy_engines": limits.copy_engines,
        "driver_version": driver_version,
        "copy_limit": copy_limit_bytes,
        "addresses": addresses,
    }
    text = ";".join(f"{key}={value}" for key, value in values.items())
    return DeviceDescription(text, tuple(assumptions))


def _limits_of(capability: tuple[int, int]) -> tuple[Limits, list[str]]:
    """Of the newest known capability that is not above `capability`."""
    if capability in LIMITS:
        return LIMITS[capability], []
    below = [known for known in LIMITS if known < capability]
    nearest = max(below) if below else min(LIMITS)
    return LIMITS[nearest], [
        f"limits of compute capability {_dotted(nearest)} assumed: those of "
        f"{_dotted(capability)} are not known"
    ]


def _memory_clock_khz(gpu: Gpu, limits: Limits) -> int:
    """Such that clock, bus and two transfers a clock give the card's bandwidth.

    Data sheets round the bandwidth: a clock that was read off a card stays where it
    gives the same but for the rounding.
    """
    known = limits.memory_clock_khz
    if gpu.memory_bandwidth_bytes_per_s is None:
        return known
    needed = gpu.memory_bandwidth_bytes_per_s * 8 // (2 * limits.bus_bits) // 1000
    return known if abs(needed - known) < known // 200 else needed


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
