"""A run of MME that is killed at a chosen moment: DATA OUT MOMENT BATCH."""

import os
import signal
import sys
from pathlib import Path

from echo import SETTINGS, Echo  # beside this file

from memplan.mme import journal
from memplan.mme.benchmark import read_benchmark
from memplan.mme.evaluation import evaluate


def main(data, out, moment, number):
    """Answer until batch `number`, then end as by kill -9."""
    written = []
    real = os.write

    def end():
        os.kill(os.getpid(), signal.SIGKILL)

    def write(descriptor, content):
        written.append(content)
        if len(written) < number:
            return real(descriptor, content)
        if moment == "half-written":
            real(descriptor, content[: len(content) // 2])
        elif moment == "whole-line":
            real(descriptor, content[: content.index(b"\n") + 1])
        elif moment == "written":
            real(descriptor, content)
        end()

    journal.os.write = write
    with journal.Journal(out, SETTINGS) as kept:
        evaluate(read_benchmark(data), Echo(), kept, batch_size=4)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
