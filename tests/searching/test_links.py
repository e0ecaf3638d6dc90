"""What a ring sends, and over which link: the formulas, written out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memplan.hardware import find_gpu
from memplan.searching.links import all_gather_bytes, all_reduce_bytes, read_links


@given(st.integers(1, 512), st.integers(0, 10**12))
def test_a_ring_gathers_and_reduces(num_ranks, whole_bytes):
    """(n-1)/n of the whole from each rank; reducing is scattering and gathering."""
    gathered = all_gather_bytes(num_ranks, whole_bytes)
    assert gathered == pytest.approx(whole_bytes * (num_ranks - 1) / num_ranks)
    assert all_reduce_bytes(num_ranks, whole_bytes) == pytest.approx(2 * gathered)


def test_one_rank_sends_nothing():
    assert all_gather_bytes(1, 10**9) == all_reduce_bytes(1, 10**9) == 0


@pytest.mark.parametrize(
    ("gpu", "num_gpus", "bytes_per_s", "name"),
    [
        # NVLink's figure is for both ways; a ring uses one.
        ("a100-80gb", 8, 300e9, "NVLink of 600 GB/s"),
        ("h100-80gb", 2, 450e9, "NVLink of 900 GB/s"),
        # 16 lanes of 16 GT/s, 128 of 130 bits: 31.508 GB/s.
        ("a100-80gb-pcie", 8, 31.508e9, "PCIe 4"),
        ("t4", 4, 15.754e9, "PCIe 3"),
        # 400 Gb/s are 50 GB/s: narrower than NVLink, wider than PCIe 4.
        ("h100-80gb", 16, 50e9, "400 Gb/s"),
        ("rtx-4090", 16, 31.508e9, "PCIe 4"),
    ],
)
def test_the_narrowest_link_decides(gpu, num_gpus, bytes_per_s, name):
    link = read_links().of(find_gpu(gpu), num_gpus)
    assert link.bytes_per_s == bytes_per_s
    assert name in link.name


def test_cards_with_nvlink_are_in_the_catalogue():
    for slug in read_links().nvlink_bytes_per_s:
        assert find_gpu(slug).slug == slug
