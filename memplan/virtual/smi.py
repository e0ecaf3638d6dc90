"""A small `nvidia-smi` for programs that ask it about the card.

It is a client of NVML, as the real one is, and answers what scripts commonly ask: the
table, `-L`, `--query-gpu` and `--query-compute-apps`. It runs as a file of its own,
with the standard library alone.
"""

import argparse
import ctypes
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NoReturn

MIB = 2**20
NOT_AVAILABLE = "[N/A]"

INVALID_ARGUMENTS = 2
NO_DEVICE = 6
NO_DRIVER = 9
"""The exit codes of nvidia-smi."""


class SmiError(Exception):
    """What nvidia-smi would print, and its exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


# ---- NVML ----------------------------------------------------------------------------


class _Memory(ctypes.Structure):
    """nvmlMemory_t"""

    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


class _Pci(ctypes.Structure):
    """nvmlPciInfo_t"""

    _fields_ = [
        ("legacy_bus_id", ctypes.c_char * 16),
        *((name, ctypes.c_uint) for name in ("domain", "bus", "device", "id", "sub")),
        ("bus_id", ctypes.c_char * 32),
    ]


class _Utilization(ctypes.Structure):
    """nvmlUtilization_t"""

    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class Nvml:
    """The NVML that the process finds."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError as error:
            raise _no_driver() from error
        if self._library.nvmlInit_v2() != 0:
            raise _no_driver()

    def system(self, function: str) -> str:
        """A text that is about no device: a version."""
        text = ctypes.create_string_buffer(80)
        self._library[function](text, len(text))
        return text.value.decode()

    def cuda_version(self) -> str:
        """`13.0`."""
        version = ctypes.c_int()
        self._library.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(version))
        return f"{version.value // 1000}.{version.value % 1000 // 10}"

    def devices(self) -> list["Device"]:
        """Every device of the machine."""
        count = ctypes.c_uint()
        self._library.nvmlDeviceGetCount_v2(ctypes.byref(count))
        return [Device(self, self._library, index) for index in range(count.value)]


class Device:
    """One device, as NVML knows it."""

    def __init__(self, nvml: Nvml, library: ctypes.CDLL, index: int) -> None:
        self.nvml, self.index = nvml, index
        self._library, self._handle = library, ctypes.c_void_p()
        handle = ctypes.byref(self._handle)
        library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), handle)

    def text(self, function: str) -> str:
        """What a function of NVML writes into a buffer."""
        text = ctypes.create_string_buffer(96)
        self._library[function](self._handle, text, ctypes.c_uint(len(text)))
        return text.value.decode()

    def number(self, function: str, *arguments: int) -> int:
        """What a function of NVML writes into a number."""
        value = ctypes.c_uint()
        kinds = (ctypes.c_uint(argument) for argument in arguments)
        self._library[function](self._handle, *kinds, ctypes.byref(value))
        return value.value

    def memory(self) -> _Memory:
        """Bytes in total, free and used."""
        memory = _Memory()
        self._library.nvmlDeviceGetMemoryInfo(self._handle, ctypes.byref(memory))
        return memory

    def utilization(self) -> _Utilization:
        """Percent."""
        rates = _Utilization()
        self._library.nvmlDeviceGetUtilizationRates(self._handle, ctypes.byref(rates))
        return rates

    def bus_id(self) -> str:
        """`00000000:10:00.0`."""
        pci = _Pci()
        self._library.nvmlDeviceGetPciInfo_v3(self._handle, ctypes.byref(pci))
        return str(pci.bus_id.decode())

    def compute_capability(self) -> str:
        """`9.0`."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._library.nvmlDeviceGetCudaComputeCapability(
            self._handle, ctypes.byref(major), ctypes.byref(minor)
        )
        return f"{major.value}.{minor.value}"


def _no_driver() -> SmiError:
    return SmiError(
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
        "Make sure that the latest NVIDIA driver is installed and running.\n",
        NO_DRIVER,
    )


# ---- queries -------------------------------------------------------------------------

GRAPHICS, SM, MEMORY = 0, 1, 2
"""nvmlClockType_t"""


def _clock(kind: int) -> Callable[[Device], object]:
    return lambda device: device.number("nvmlDeviceGetClockInfo", kind)


GPU_FIELDS: dict[str, tuple[str, Callable[[Device], object]]] = {
    "timestamp": ("", lambda _: datetime.now().strftime("%Y/%m/%d %H:%M:%S.%f")[:-3]),
    "driver_version": ("", lambda d: d.nvml.system("nvmlSystemGetDriverVersion")),
    "count": ("", lambda d: len(d.nvml.devices())),
    "name": ("", lambda d: d.text("nvmlDeviceGetName")),
    "index": ("", lambda d: d.index),
    "uuid": ("", lambda d: d.text("nvmlDeviceGetUUID")),
    "pci.bus_id": ("", lambda d: d.bus_id()),
    "compute_cap": ("", lambda d: d.compute_capability()),
    "compute_mode": ("", lambda _: "Default"),
    "persistence_mode": ("", lambda _: "Enabled"),
    "display_active": ("", lambda _: "Disabled"),
    "display_mode": ("", lambda _: "Disabled"),
    "pstate": ("", lambda _: "P0"),
    "memory.total": ("MiB", lambda d: d.memory().total // MIB),
    "memory.used": ("MiB", lambda d: d.memory().used // MIB),
    "memory.free": ("MiB", lambda d: d.memory().free // MIB),
    "memory.reserved": ("MiB", lambda _: 0),
    "utilization.gpu": ("%", lambda d: d.utilization().gpu),
    "utilization.memory": ("%", lambda d: d.utilization().memory),
    "temperature.gpu": ("", lambda d: d.number("nvmlDeviceGetTemperature", 0)),
    "power.draw": ("W", lambda d: f"{d.number('nvmlDeviceGetPowerUsage') / 1000:.2f}"),
    "clocks.gr": ("MHz", _clock(GRAPHICS)),
    "clocks.sm": ("MHz", _clock(SM)),
    "clocks.mem": ("MHz", _clock(MEMORY)),
    "clocks.max.gr": ("MHz", _clock(GRAPHICS)),
    "clocks.max.sm": ("MHz", _clock(SM)),
    "clocks.max.mem": ("MHz", _clock(MEMORY)),
}
"""What can be asked of a device: its unit, and how it is answered."""

OTHER_NAMES = {
    "gpu_name": "name",
    "gpu_uuid": "uuid",
    "gpu_bus_id": "pci.bus_id",
    "clocks.current.graphics": "clocks.gr",
    "clocks.current.sm": "clocks.sm",
    "clocks.current.memory": "clocks.mem",
    "clocks.max.graphics": "clocks.max.gr",
    "clocks.max.memory": "clocks.max.mem",
    "power.draw.instant": "power.draw",
    "power.draw.average": "power.draw",
}

NOT_KNOWN = {
    **dict.fromkeys(
        ("power.limit", "power.default_limit", "enforced.power.limit"), "W"
    ),
    **dict.fromkeys(("power.max_limit", "power.min_limit"), "W"),
    **dict.fromkeys(("fan.speed", "utilization.encoder", "utilization.decoder"), "%"),
    **dict.fromkeys(
        ("serial", "gpu_serial", "vbios_version", "temperature.memory"), ""
    ),
    **dict.fromkeys(("ecc.mode.current", "ecc.mode.pending"), ""),
    **dict.fromkeys(("mig.mode.current", "mig.mode.pending"), ""),
    **dict.fromkeys(("pcie.link.gen.current", "pcie.link.gen.max"), ""),
    **dict.fromkeys(("pcie.link.width.current", "pcie.link.width.max"), ""),
}
"""What nvidia-smi knows and this card does not, with the unit: as not available."""

APP_FIELDS = {
    **dict.fromkeys(("pid", "process_name", "name", "gpu_name", "gpu_uuid"), ""),
    **dict.fromkeys(("gpu_bus_id", "gpu_serial", "timestamp"), ""),
    **dict.fromkeys(("used_memory", "used_gpu_memory"), "MiB"),
}
"""What can be asked of a process. None is listed: each plays a card of its own."""


def query(devices: Sequence[Device], fields: Sequence[str], form: str) -> list[str]:
    """The lines for `--query-gpu`."""
    units = {name: _gpu_unit(name) for name in fields}
    rows = [[(_answer(d, name), units[name]) for name in fields] for d in devices]
    return _csv([(name, units[name]) for name in fields], rows, form)


def query_apps(fields: Sequence[str], form: str) -> list[str]:
    """The lines for `--query-compute-apps`."""
    for name in fields:
        if name not in APP_FIELDS:
            raise _no_field(name)
    return _csv([(name, APP_FIELDS[name]) for name in fields], [], form)


def _gpu_unit(name: str) -> str:
    name = OTHER_NAMES.get(name, name)
    if name in GPU_FIELDS:
        return GPU_FIELDS[name][0]
    if name in NOT_KNOWN:
        return NOT_KNOWN[name]
    raise _no_field(name)


def _no_field(name: str) -> SmiError:
    return SmiError(f'Field "{name}" is not a valid field to query.\n', 2)


def _answer(device: Device, name: str) -> str:
    name = OTHER_NAMES.get(name, name)
    return str(GPU_FIELDS[name][1](device)) if name in GPU_FIELDS else NOT_AVAILABLE


def _csv(
    header: Sequence[tuple[str, str]],
    rows: Sequence[Sequence[tuple[str, str]]],
    form: str,
) -> list[str]:
    options = form.split(",")
    if options[0] != "csv" or set(options[1:]) - {"noheader", "nounits"}:
        raise _invalid()
    units = "nounits" not in options
    lines = []
    if "noheader" not in options:
        lines.append(
            ", ".join(f"{n} [{u}]" if u and units else n for n, u in header),
        )
    for row in rows:
        cells = (
            f"{v} {u}" if u and units and v != NOT_AVAILABLE else v for v, u in row
        )
        lines.append(", ".join(cells))
    return lines


# ---- the table and the list ----------------------------------------------------------


def table(nvml: Nvml, devices: Sequence[Device]) -> list[str]:
    """What `nvidia-smi` prints when it is asked nothing, in brief."""
    driver = nvml.system("nvmlSystemGetDriverVersion")
    versions = (
        f"| NVIDIA-SMI {driver:<22} Driver Version: {driver:<14} "
        f"CUDA Version: {nvml.cuda_version():<8} |"
    )
    rule = "+" + "-" * (len(versions) - 2) + "+"
    lines = [rule, versions, rule]
    for device in devices:
        memory = device.memory()
        used = f"{memory.used // MIB}MiB / {memory.total // MIB}MiB"
        cells = (
            f"| {device.index:>3}  {device.text('nvmlDeviceGetName')[:30]:<30} "
            f"{device.bus_id()}  {used:>20}  {device.utilization().gpu:>3}%"
        )
        lines.append(f"{cells:<{len(versions) - 1}}|")
    return [*lines, rule]


def listing(devices: Sequence[Device]) -> list[str]:
    """What `nvidia-smi -L` prints."""
    return [
        f"GPU {d.index}: {d.text('nvmlDeviceGetName')} "
        f"(UUID: {d.text('nvmlDeviceGetUUID')})"
        for d in devices
    ]


# ---- the command line ----------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _invalid()


def _invalid() -> SmiError:
    return SmiError(
        "Invalid combination of input arguments. "
        "Please run 'nvidia-smi -h' for help.\n",
        INVALID_ARGUMENTS,
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "nvidia-smi", description="What the virtual card answers.", allow_abbrev=False
    )
    parser.add_argument("-L", "--list-gpus", action="store_true")
    parser.add_argument("-i", "--id", metavar="INDEX,UUID,BUS_ID,...")
    parser.add_argument("--query-gpu", metavar="FIELD,...")
    parser.add_argument("--query-compute-apps", metavar="FIELD,...")
    parser.add_argument("--format", metavar="csv[,noheader][,nounits]")
    return parser


def _chosen(devices: list[Device], names: str | None) -> list[Device]:
    if names is None:
        return devices
    chosen = []
    for name in names.split(","):
        found = [d for d in devices if name in (str(d.index), d.bus_id())]
        found += [d for d in devices if d.text("nvmlDeviceGetUUID") == name]
        if not found:
            raise SmiError("No devices were found\n", NO_DEVICE)
        chosen += found
    return chosen


def _fields(names: str) -> list[str]:
    return [name.strip() for name in names.split(",")]


def answer(arguments: Sequence[str]) -> list[str]:
    """The lines that nvidia-smi prints for these arguments.

    Raises:
        SmiError: it would refuse.
    """
    options = _parser().parse_args(arguments)
    nvml = Nvml()
    devices = _chosen(nvml.devices(), options.id)
    if options.query_gpu or options.query_compute_apps:
        if not options.format:
            raise _invalid()
        if options.query_gpu:
            return query(devices, _fields(options.query_gpu), options.format)
        return query_apps(_fields(options.query_compute_apps), options.format)
    if options.format:
        raise _invalid()
    return listing(devices) if options.list_gpus else table(nvml, devices)


def main() -> int:
    """Print the answer; its exit code."""
    try:
        lines = answer(sys.argv[1:])
    except SmiError as error:
        sys.stdout.write(str(error))
        return error.code
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
