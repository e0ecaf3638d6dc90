"""Every error a user can cause, in one tree.

MemplanError            one sentence, one hint, exit code 2
├── UnknownNameError    a model, GPU, optimizer or key that does not exist
├── PlanError           a plan whose fields contradict each other
├── ModelConfigError    a config.json that cannot be read, or is not covered
├── ConfigError         a user's configuration file that cannot be read: file, key
├── ProfileError        a data file of memplan's own that is damaged
├── VirtualDeviceError  a machine or a torch that cannot play a virtual card
├── DeviceError         a machine or a torch without a card to measure on
├── DataError           a record of a dataset that cannot be used: file, record, field
├── SnapshotError       a file that is no snapshot of the allocator
├── CaptureFileError    a capture file that cannot be read, written or joined
├── RecordError         a record of a measurement that cannot be used: file, reason
├── ExecutorError       a cluster that cannot be reached, or that went away
├── CommandError        a command that cannot be started as written
└── ProgramError        a program that failed, or showed nothing; its own exit code

The command line prints the sentence and the hint and leaves with the exit code;
anything that is not a MemplanError is a bug and shows its traceback.
"""

from collections.abc import Iterable


class MemplanError(Exception):
    """A user's mistake, or something on the user's machine that is missing."""

    exit_code = 2

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UnknownNameError(MemplanError):
    """A name that is not in its catalogue."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str]) -> "UnknownNameError":
        """Name what was not found, and the names closest to it."""
        import difflib

        names = sorted(known)
        close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
        if not close:
            close = [n for n in names if name.lower() in n or n in name.lower()][:3]
        hint = (
            f"Did you mean {_listed(close)}?"
            if close
            else f"Known: {_listed(names[:12], 'and')}"
            + ("." if len(names) <= 12 else f", and {len(names) - 12} more.")
        )
        return cls(f"There is no {kind} named {name!r}.", hint=hint)


class PlanError(MemplanError):
    """A plan that cannot be carried out as written."""


class ModelConfigError(MemplanError):
    """A model configuration that is malformed, foreign or not covered."""


class ConfigError(MemplanError):
    """A configuration file that cannot be read, or is not understood."""


class ProfileError(MemplanError):
    """A damaged data file under memplan's profiles."""


class VirtualDeviceError(MemplanError):
    """Something the virtual card needs is missing on this machine."""


class DeviceError(MemplanError):
    """There is no card, or no torch that could use it."""


class DataError(MemplanError):
    """A dataset, or one record of it, that cannot be used as it is."""


class SnapshotError(MemplanError):
    """A file that is no snapshot of the allocator, or that holds more than data."""


class CaptureFileError(MemplanError):
    """A capture file that cannot be read or written, or captures that do not match."""


class RecordError(MemplanError):
    """A record of a measurement that cannot be read, used or written."""

    def __init__(self, message: str, *, hint: str, reason: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason or message

    @classmethod
    def of(cls, file: object, reason: str) -> "RecordError":
        """Name the file, and keep the reason for lists where the file stands."""
        return cls(
            f"{file} is no record that can be used: {reason}.",
            hint="`scripts/measure` writes records.",
            reason=reason,
        )


class ExecutorError(MemplanError):
    """Who was to run a sweep is not there, not any more, or has other versions."""


class CommandError(MemplanError):
    """A command that cannot be started as written."""


class ProgramError(MemplanError):
    """A program that failed by itself, or in which there was nothing to see."""

    def __init__(self, message: str, *, hint: str, exit_code: int = 2) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


def _listed(names: list[str], conjunction: str = "or") -> str:
    """`a`, `a or b`, `a, b or c`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {conjunction} {names[-1]}"
