"""Writers of one capture that are killed, one after the other: FOLDER HOW_MANY.

Each writes again and again, now one capture, now another. Prints how many files were
found whole after a kill, how many times there was none, and how many kills came in the
middle of writing.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from capture_files import capture_file
from captures import capture

from memplan.captures.capture_file import read_capture, write_capture

NOISE = random.Random(5)
CAPTURES = [
    capture_file(capture(argv=[name, NOISE.randbytes(100_000).hex()]))
    for name in ("first", "second")
]


def main(folder, num_kills):
    file = folder / "run.mplan"
    began = time.monotonic()
    write_capture(CAPTURES[0], file)
    longest = 4 * (time.monotonic() - began)
    whole, none, unfinished = 0, 0, 0
    for number in range(num_kills):
        if number % 8 == 0:
            file.unlink(missing_ok=True)
        process = os.fork()
        if not process:
            _write_for_ever(file)
        time.sleep(NOISE.uniform(0, longest))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        parts = [part for part in folder.iterdir() if part != file]
        unfinished += len(parts)
        for part in parts:
            part.unlink()
        if file.exists():
            (seen,) = read_capture(file).processes
            assert seen["argv"] in [known.processes[0]["argv"] for known in CAPTURES]
            whole += 1
        else:
            none += 1
    print(whole, none, unfinished)


def _write_for_ever(file):
    while True:
        for capture_of_one in CAPTURES:
            write_capture(capture_of_one, file, force=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
