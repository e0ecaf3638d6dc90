"""Formulas as text: letters where a size has one, then numbers, which can be checked.

A formula is sums and products of whole numbers, some divided by ranks and rounded up,
and ends with `B`. Right of its `=` stand numbers alone, and they give the bytes of its
term exactly.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from memplan.formulas.ledger import Origin
from memplan.formulas.parameters import Shape
from memplan.formulas.setting import Batch
from memplan.models.family import Family
from memplan.report import Term
from memplan.units import ceil_div

NAMES = {
    "h": ("hidden size", ("hidden_size", "n_embd", "d_model", "hidden_dim")),
    "f": ("inner size of the MLP", ("intermediate_size", "n_inner", "d_ff", "ffn_dim")),
    "a": ("attention heads", ("num_attention_heads", "n_head", "num_heads")),
    "g": ("key-value heads", ("kv_heads",)),
    "k": ("size of a head", ("head_size", "d_kv")),
    "v": ("vocabulary", ("vocab_size",)),
}
"""Letters, what they stand for, and what configurations call it."""


@dataclass(frozen=True, slots=True)
class Letters:
    """Sizes that have a letter: those that could be nothing else."""

    by_size: Mapping[int, str]
    meanings: Mapping[str, str]
    """`b`: `micro-batch, 2`."""

    def product(self, shape: Shape, item_bytes: int, count: int = 1) -> str:
        """`32 x b x s x f x 2 B = 32 x 2 x 4096 x 14336 x 2 B`."""
        sizes = [size for size in shape if size != 1]
        named = [self.by_size.get(size, str(size)) for size in sizes]
        plain = [str(size) for size in sizes]
        repeated = [] if count == 1 else [str(count)]
        numbers = " x ".join([*repeated, *plain, f"{item_bytes} B"])
        if named == plain:
            return numbers
        return f"{' x '.join([*repeated, *named, f'{item_bytes} B'])} = {numbers}"

    def of(self, formulas: Sequence[str]) -> dict[str, str]:
        """What the letters mean that some formulas have."""
        used = {word for formula in formulas for word in formula.split()}
        return {
            letter: meaning
            for letter, meaning in self.meanings.items()
            if letter in used
        }


def letters_of(family: Family, config: Any, batch: Batch) -> Letters:
    """Letters of one batch of a model.

    A size that two letters could stand for has none, nor has a letter that towers of a
    model have different sizes for.
    """
    has_decoder = "target_tokens" in family.inputs
    sizes: dict[str, set[int]] = {
        "b": {batch.size},
        "s": {batch.seq_len},
        "t": {batch.target_seq_len} if has_decoder else set(),
    }
    meanings = {
        "b": "samples of the micro-batch",
        "s": "tokens of a sample",
        "t": "tokens of the decoder",
    }
    for letter, (meaning, names) in NAMES.items():
        meanings[letter] = meaning
        sizes[letter] = {
            getattr(part, name)
            for part in _parts(config)
            for name in names
            if isinstance(getattr(part, name, None), int)
        }
    claims = Counter(size for some in sizes.values() for size in some)
    clear = {
        size: letter
        for letter, some in sizes.items()
        for size in some
        if len(some) == 1 and size > 1 and claims[size] == 1
    }
    return Letters(
        clear,
        {letter: f"{meanings[letter]}, {size}" for size, letter in clear.items()},
    )


def _parts(config: Any) -> Iterator[Any]:
    """A configuration and those within it."""
    yield config
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from _parts(value)


def size(size_bytes: int, count: int = 1) -> str:
    """Bytes that no shape is known for, so many times."""
    return f"{size_bytes:,} B" if count == 1 else f"{count} x {size_bytes:,} B"


def elements(num_elements: int, item_bytes: int, count: int = 1) -> str:
    """`32 x 218,112,000 x 4 B`."""
    repeated = "" if count == 1 else f"{count} x "
    return f"{repeated}{num_elements:,} x {item_bytes} B"


def per_parameter(size_bytes: int, num_parameters: int, num_ranks: int) -> str:
    """`2 x 7,500,000,000 B`, or that over ranks; the bytes where it is neither."""
    for ranks in (1, num_ranks):
        each = size_bytes * ranks // num_parameters
        if each and ceil_div(each * num_parameters, ranks) == size_bytes:
            shared = f" / {ranks}" if ranks > 1 else ""
            return f"{each} x {num_parameters:,}{shared} B"
    return size(size_bytes)


def term(
    component: str, name: str, formula: str, size_bytes: int, origin: Origin
) -> Term:
    """A term with its source: the library's, then memplan's own function."""
    source = "; ".join(filter(None, [origin.source, origin.function]))
    return Term(
        component=component,
        name=name,
        formula=formula,
        bytes=size_bytes,
        source=source,
    )
