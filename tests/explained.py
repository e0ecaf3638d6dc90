"""What an explanation must be: terms that add up, formulas that give their bytes."""

from collections import Counter
from dataclasses import asdict
from math import prod


def assert_adds_up(report):
    """Each component is the sum of its terms, and the device is that of all."""
    sums = Counter()
    for term in report.explanation.terms:
        assert term.bytes > 0 or term.name == "slack of cached blocks", term
        assert value_of(term.formula) == term.bytes, term
        sums[term.component] += term.bytes
    for component, size_bytes in asdict(report.components).items():
        assert sums.pop(component, 0) == size_bytes, component
    assert set(sums) <= {"segments", "outside"}
    allocated = report.peak.allocated_bytes
    assert sums.total() + allocated == report.peak.device_bytes


def value_of(formula):
    """`32 x b x 2 B = 32 x 4 x 2 B`: what is right of the last `=`, in bytes."""
    numbers = formula.rpartition("=")[2].replace(",", "").removesuffix(" B")
    product, _, ranks = numbers.partition(" / ")
    terms = (part.split(" x ") for part in product.split(" + "))
    total = sum(prod(int(number) for number in part) for part in terms)
    return -(-total // int(ranks or 1))
