"""Word vectors that the embeddings of classes and predicates begin with.

A text file as GloVe's: a word and its numbers on each line, with spaces between. As
`obj_edge_vectors` and `rel_vectors` of PE-Net's `utils_motifs.py` look them up; what is
not there keeps random numbers, and is told.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from memplan.data.records import BadRecordError, Record
from memplan.errors import DataError
from memplan.models.pe_net.module import PENet
from memplan.models.pe_net.scenes import Vocabulary

Vectors = dict[str, list[float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Begun:
    """What the embeddings begin with."""

    found: tuple[str, ...]
    """Names with vectors of their words."""
    random: tuple[str, ...]
    """Names without, the backgrounds among them."""

    def summary(self) -> str:
        """`198 names begin with word vectors, 2 at random (a, b)`."""
        names = ", ".join(dict.fromkeys(self.random))
        told = f"{len(self.found)} names begin with word vectors"
        return f"{told}, {len(self.random)} at random ({names})" if names else told


@torch.no_grad()
def begin_embeddings(
    model: PENet, vocabulary: Vocabulary, file: Path | None = None
) -> Begun:
    """Fill the three embeddings: two of classes, which begin alike, one of predicates.

    Without a file they begin at random.

    Raises:
        DataError: the file cannot be read.
        BadRecordError: a line that is needed is not as many numbers as the embedding.
    """
    names = (*vocabulary.objects, *vocabulary.predicates)
    size = model.config.embed_dim
    vectors = {} if file is None else read_vectors(file, words_of(names), size)
    predictor = model.roi_heads["relation"].predictor
    found, random = [], []
    for kind, embedding, twins, pick in (
        (vocabulary.objects, "obj_embed", ("obj_embed1",), vector_of_object),
        (vocabulary.predicates, "rel_embed", (), vector_of_predicate),
    ):
        table = torch.randn(len(kind), size)
        for row, name in enumerate(kind):
            vector = pick(name, vectors)
            if vector is None:
                random.append(name)
            else:
                table[row] = vector
                found.append(name)
        for one in (embedding, *twins):
            embedded: nn.Embedding = getattr(predictor, one)
            embedded.weight.copy_(table)
    return Begun(found=tuple(found), random=tuple(random))


def vector_of_object(name: str, vectors: Vectors) -> Tensor | None:
    """That of the whole name, else of its longest word."""
    for word in (name, max(name.split(" "), key=len)):
        if word in vectors:
            return torch.tensor(vectors[word])
    return None


def vector_of_predicate(name: str, vectors: Vectors) -> Tensor | None:
    """That of the whole name, else the mean of its words."""
    if name in vectors:
        return torch.tensor(vectors[name])
    words = [vectors[word] for word in name.split(" ") if word in vectors]
    return torch.tensor(words).mean(dim=0) if words else None


def words_of(names: Iterable[str]) -> set[str]:
    """All that may be looked up for these names."""
    return {word for name in names for word in (name, *name.split(" "))}


def read_vectors(file: Path, wanted: set[str], size: int) -> Vectors:
    """The vectors of the words that are wanted.

    Raises:
        DataError: the file cannot be read.
        BadRecordError: one of them is not so many numbers.
    """
    vectors = {}
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                word, _, rest = line.rstrip().partition(" ")
                if word in wanted:
                    record = Record(file, number, {})
                    vectors[word] = _numbers(record, word, rest.split(" "), size)
    except OSError as error:
        raise DataError(
            f"{file} cannot be read: {error.strerror}.",
            hint="Give a text file of word vectors, as glove.6B.300d.txt.",
        ) from error
    return vectors


def _numbers(record: Record, word: str, texts: Sequence[str], size: int) -> list[float]:
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        raise _bad(record, word, "is not numbers") from None
    if len(numbers) != size:
        raise _bad(record, word, f"is {len(numbers)} numbers, {size} are needed")
    return numbers


def _bad(record: Record, word: str, problem: str) -> BadRecordError:
    return record.error(word, problem)
