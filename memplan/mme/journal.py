"""The answers of a run on disk: a run that was killed goes on where it was.

The files of results are the journal. A batch is appended to them and synced before the
next is asked; a line that a kill cut off is cut away, with the answers of its batch, so
that a batch is always asked whole and answers are those of an unbroken run.
"""

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from memplan.errors import DataError
from memplan.mme.benchmark import Question
from memplan.mme.results import result_line
from memplan.mme.tasks import TASKS

SETTINGS = "run.json"


class Journal:
    """The folder of one run, which no other run may use meanwhile.

    Args:
        folder: made where it is not there.
        settings: what decides the answers; a run with others must not go on.
        force: begin anew over what is there.

    Raises:
        DataError: the folder is another run's, or cannot be used.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], *, force: bool = False
    ) -> None:
        self.folder = folder
        self.settings = dict(settings)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / SETTINGS).open("a+", encoding="utf-8")
        except OSError as error:
            raise _unwritable(folder, error) from error
        try:
            self._take(force)
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.close()

    def resume(self, questions: Sequence[Question], batch_size: int) -> int:
        """Questions of a subtask that are answered; its file ends after these.

        Raises:
            DataError: the file has answers to other questions.
        """
        file = self._file(questions[0].task)
        if not file.exists():
            return 0
        lines = file.read_bytes().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        for number, line in enumerate(whole):
            asked = questions[number] if number < len(questions) else None
            if asked is None or not line.startswith(_beginning(asked)):
                raise DataError(
                    f"{file}, line {number + 1}: is no answer to this benchmark's "
                    "question.",
                    hint="Use another --out, or begin anew with --force.",
                )
        num_answered = len(whole)
        if num_answered < len(questions):
            num_answered -= num_answered % batch_size
        size_bytes = sum(map(len, whole[:num_answered]))
        if size_bytes < file.stat().st_size:
            os.truncate(file, size_bytes)
        return num_answered

    def append(self, questions: Sequence[Question], responses: Sequence[str]) -> None:
        """Keep the answers of one batch of a subtask; they are on disk on return.

        Raises:
            DataError: the disk is full, or the folder is gone.
        """
        text = "".join(
            result_line(asked.image, asked.text, asked.truth, response)
            for asked, response in zip(questions, responses, strict=True)
        )
        try:
            with self._file(questions[0].task).open("ab", buffering=0) as file:
                _write(file.fileno(), text.encode("utf-8", errors="replace"))
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def _file(self, task: str) -> Path:
        return self.folder / f"{task}.txt"

    def _take(self, force: bool) -> None:
        """Hold the folder, and see whose answers are in it."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(
                f"Another run is writing to {self.folder}.",
                hint="Wait for it, or use another --out.",
            ) from None
        self._lock.seek(0)
        known = self._lock.read()
        answered = [t.name for t in TASKS if self._file(t.name).exists()]
        if force:
            for name in answered:
                self._file(name).unlink()
        elif answered and not known:
            raise DataError(
                f"{self.folder} has files of results, and no {SETTINGS}: they are not "
                "of `memplan mme run`.",
                hint="Use another --out, or overwrite them with --force.",
            )
        elif answered:
            self._check_same(known)
            return
        self._lock.truncate(0)
        self._lock.write(json.dumps(self.settings, indent=2) + "\n")
        self._lock.flush()
        os.fsync(self._lock.fileno())

    def _check_same(self, known: str) -> None:
        try:
            before = json.loads(known)
        except ValueError:
            before = None
        if not isinstance(before, dict):
            raise DataError(
                f"{self.folder / SETTINGS} is damaged.",
                hint="Use another --out, or begin anew with --force.",
            )
        for name in dict.fromkeys((*before, *self.settings)):
            one, other = before.get(name), self.settings.get(name)
            if one != other:
                raise DataError(
                    f"{self.folder} holds answers of another run: {name} was {one!r}, "
                    f"now it is {other!r}.",
                    hint="Use another --out, or begin anew with --force.",
                )


def _beginning(asked: Question) -> bytes:
    return result_line(asked.image, asked.text, asked.truth, "")[:-1].encode()


def _write(descriptor: int, data: bytes) -> None:
    """All of it, to the disk."""
    while data:
        data = data[os.write(descriptor, data) :]
    os.fsync(descriptor)


def _unwritable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"{folder} cannot be written: {error.strerror}.",
        hint="Answers so far are kept; make room, or choose a folder that is yours.",
    )
