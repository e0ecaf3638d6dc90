"""Batches without end, the same for any number of workers and after a resume.

Which samples a batch has, and what chance does to each, follows from a seed and from
how many batches came before. So a run that goes on from a checkpoint needs to be told
one number for each dataset, and sees what an unbroken run would have seen.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from memplan.data.records import BadRecordError, Policy
from memplan.errors import DataError

Sample_co = TypeVar("Sample_co", covariant=True)
Collate = Callable[[list[Any]], dict[str, Any]]
"""Makes the arguments of a model's forward pass of the samples of a batch."""


class Samples(Protocol[Sample_co]):
    """A dataset; chance enters a sample by the generator that it is given."""

    def __len__(self) -> int: ...

    def draw(self, index: int, random: Random) -> Sample_co:
        """One sample.

        Raises:
            BadRecordError: its record cannot be used.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Loading:
    """How a dataset is cut into batches, and by how many processes it is read."""

    batch_size: int
    seed: int = 0
    shuffles: bool = True
    policy: Policy = Policy.REFUSE
    num_workers: int = 0
    pin_memory: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Arguments of a forward pass, and what was wrong with records passed over."""

    content: dict[str, Any]
    skipped: tuple[str, ...]

    def pin_memory(self) -> "Batch":
        """What DataLoader calls in a run that pins host memory."""
        content = {
            name: value.pin_memory() if isinstance(value, torch.Tensor) else value
            for name, value in self.content.items()
        }
        return Batch(content, self.skipped)


def batches(
    samples: Samples[Any],
    collate: Collate,
    loading: Loading,
    *,
    start: int = 0,
    rank: int = 0,
    num_ranks: int = 1,
) -> Iterator[Batch]:
    """Batches from number `start` on; whole ones only, epoch after epoch.

    Raises:
        DataError: there are fewer samples than one batch of every rank takes, or none
            of them can be used.
        BadRecordError: a bad record under Policy.REFUSE.
    """
    order = Order(len(samples), loading, start, rank, num_ranks)
    return iter(
        DataLoader(
            _Drawn(samples, loading),
            batch_sampler=order,
            collate_fn=_Collated(collate),
            num_workers=loading.num_workers,
            pin_memory=loading.pin_memory,
            # Else each iterator takes a number from the generator that dropout uses.
            generator=torch.Generator().manual_seed(loading.seed),
        )
    )


class Order(Sampler[list[tuple[int, int]]]):
    """Which samples each batch has: `(index, draw)`, draws being counted from 0."""

    def __init__(
        self,
        num_samples: int,
        loading: Loading,
        start: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        whole = loading.batch_size * num_ranks
        if num_samples < whole:
            raise DataError(
                f"{num_samples} samples are fewer than one batch of {whole}.",
                hint="Use a smaller batch, or more data.",
            )
        self.num_samples = num_samples
        self.loading = loading
        self.start = start
        self.rank = rank
        self.num_ranks = num_ranks
        self.batches_per_epoch = num_samples // whole

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size, number = self.loading.batch_size, self.start
        while True:
            epoch, within = divmod(number, self.batches_per_epoch)
            order = self._permutation(epoch)
            for batch in range(within, self.batches_per_epoch):
                first = (batch * self.num_ranks + self.rank) * size
                draw = epoch * self.num_samples + first
                yield [(order[first + i], draw + i) for i in range(size)]
                number += 1

    def _permutation(self, epoch: int) -> list[int]:
        order = list(range(self.num_samples))
        if self.loading.shuffles:
            Random(f"{self.loading.seed} epoch {epoch}").shuffle(order)
        return order


class _Drawn(Dataset[tuple[Any, list[str]]]):
    """A sample, and what was wrong with those that it stands in for."""

    def __init__(self, samples: Samples[Any], loading: Loading) -> None:
        self._samples = samples
        self._loading = loading

    def __getitem__(self, key: Any) -> tuple[Any, list[str]]:
        index, draw = key
        random = Random(f"{self._loading.seed} draw {draw}")
        skipped: list[str] = []
        for following in range(len(self._samples)):
            try:
                place = (index + following) % len(self._samples)
                return self._samples.draw(place, random), skipped
            except BadRecordError as error:
                if self._loading.policy is Policy.REFUSE:
                    raise
                skipped.append(error.sort)
        raise DataError(
            f"None of {len(self._samples)} samples can be used ({skipped[-1]}).",
            hint="See whether the folder of the pictures is the one that is meant.",
        )


class _Collated:
    """Of a module's own, so that a worker that is spawned can be given it."""

    def __init__(self, collate: Collate) -> None:
        self._collate = collate

    def __call__(self, drawn: list[tuple[Any, list[str]]]) -> Batch:
        skipped = tuple(sort for _, sorts in drawn for sort in sorts)
        return Batch(self._collate([sample for sample, _ in drawn]), skipped)
