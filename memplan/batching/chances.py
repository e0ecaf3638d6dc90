"""How likely a batch of random samples is, in closed form.

With n samples, x of them as small as something, a batch of B has only such samples with
the chance C(x, B) / C(n, B): a batch is drawn without replacement, and each batch of a
shuffled epoch is as likely as any.
"""

from collections.abc import Mapping, Sequence


def chance_of_none(num_samples: int, num_marked: int, size: int) -> float:
    """That a batch has none of the marked samples: C(n - k, B) / C(n, B).

    That is C(n - B, k) / C(n, k) too: the smaller of both is counted down.
    """
    most, least = max(num_marked, size), min(num_marked, size)
    chance = 1.0
    for i in range(least):
        left = num_samples - most - i
        if left <= 0 or not chance:
            return 0.0
        chance *= left / (num_samples - i)
    return chance


def chance_of_each(num_marked: Mapping[int, int], num_marks: int, size: int) -> float:
    """That a batch has every mark, on whichever samples: inclusion and exclusion.

    Args:
        num_marked: samples by their marks, which are bits.
    """
    num_samples, chance = sum(num_marked.values()), 0.0
    for lacking in range(2**num_marks):
        num_left_out = sum(n for marks, n in num_marked.items() if marks & lacking)
        sign = (-1) ** lacking.bit_count()
        chance += sign * chance_of_none(num_samples, num_left_out, size)
    return min(max(chance, 0.0), 1.0)


def longest_of_a_batch(lengths: Sequence[int], size: int, percent: int) -> int:
    """Of so many percent of all batches the longest sample is this long at most.

    Args:
        lengths: of all samples, sorted.
    """
    low, high = 0, len(lengths) - 1
    while low < high:
        middle = (low + high) // 2
        num_longer = len(lengths) - 1 - middle
        if 100 * chance_of_none(len(lengths), num_longer, size) >= percent:
            high = middle
        else:
            low = middle + 1
    return lengths[low]
