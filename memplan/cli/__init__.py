"""The command line: a thin skin over the library.

A verb reads its flags into a plan, calls one function of the library, and hands the
result to a view. Results go to stdout, everything else to stderr.
"""

import signal
import sys
from types import FrameType


def main() -> None:
    """Entry point of `memplan`: a user's mistake is one sentence, a hint, exit 2."""
    from memplan.cli.app import app
    from memplan.errors import MemplanError

    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP; nohup ignores it
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _leave)
    try:
        app()
    except MemplanError as error:
        print(f"error: {error.message}", file=sys.stderr)
        print(f"hint: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)


def _leave(number: int, frame: FrameType | None) -> None:
    """Ended from outside, put away what is unfinished as on any other way out."""
    raise SystemExit(128 + number)
