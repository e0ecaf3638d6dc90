"""PyTorch's allocator acts on the virtual card as its documentation says of a real one.

The rules are those of "Memory management" in PyTorch's notes on CUDA semantics, and the
sizes those of c10/core/AllocatorConfig.h: blocks of 512 bytes; segments of 2 MiB for
requests up to 1 MiB, of 20 MiB up to 10 MiB, beyond that of the request rounded up to
2 MiB.
"""

import json
import textwrap

import pytest

from memplan.units import GiB, MiB

PRELUDE = """
import json
import torch

MiB = 2**20
seen = {}

def take(mebibytes, more_bytes=0):
    size = int(mebibytes * MiB) + more_bytes
    return torch.empty(size, dtype=torch.uint8, device="cuda")

def note(name, counters=("requested", "allocated", "reserved")):
    stats = torch.cuda.memory_stats()
    seen[name] = {c: stats[f"{c}_bytes.all.current"] for c in counters}
    seen[name]["retries"] = stats["num_alloc_retries"]
    seen[name]["ooms"] = stats["num_ooms"]
    seen[name]["free"] = torch.cuda.mem_get_info()[0]
    seen[name]["segments"] = [
        {key: segment.get(key) for key in ("total_size", "is_expandable", "blocks")}
        for segment in torch.cuda.memory_snapshot()
    ]

def fails(mebibytes, more_bytes=0):
    try:
        take(mebibytes, more_bytes)
    except torch.OutOfMemoryError as error:
        return str(error)
    return "it fits"

torch.cuda.init()
"""


@pytest.fixture(scope="session")
def seen_on(run_on):
    """What a piece of code noted, on a card of 8 GiB, of which 500 MiB are taken."""

    def seen(code, settings=None, **options):
        variables = {} if settings is None else {"PYTORCH_CUDA_ALLOC_CONF": settings}
        whole = PRELUDE + textwrap.dedent(code) + "\nprint(json.dumps(seen))"
        card = {"total_bytes": 8 * GiB, "context_bytes": 500 * MiB} | options
        return json.loads(run_on("rtx-4090", whole, variables=variables, **card))

    return seen


def segment_sizes(noted):
    return sorted(segment["total_size"] for segment in noted["segments"])


# What the settings act on; each piece leaves an empty cache.

TWO_THAT_MERGE = """
first, second = take(100), take(100)
note("two")
del first, second
both = take(200)
note("both")
del both
torch.cuda.empty_cache()
"""

LARGE_THEN_SMALL = """
large = take(256)
del large
small = take(32)
note("small")
del small
almost = take(240)
note("almost")
del almost
less = take(230)
note("less")
del less
torch.cuda.empty_cache()
"""

CACHED_THEN_MORE = """
torch.cuda.set_per_process_memory_fraction(0.5)
cached = take(1024)
del cached
more = take(2048)
note("more")
"""


# ---- without settings ----


@pytest.fixture(scope="module")
def default(seen_on):
    """Everything that needs no setting, in one process."""
    without_settings = """
        small = take(1)
        note("one mebibyte")
        middle = take(1, 1)
        note("more than one")
        large = take(21, 1)
        note("more than ten")
        one = take(0, 1)
        note("a byte")
        del small, middle, large, one
        note("all freed")
        torch.cuda.empty_cache()
        note("emptied")

        free_bytes = torch.cuda.mem_get_info()[0]
        seen["too much"] = fails(0, free_bytes + 1)
        whole = take(0, free_bytes)
        note("full")
        seen["a byte more"] = fails(0, 1)
        note("after the error")
        del whole
        rest = take(1)
        note("recovered")
        del rest
        torch.cuda.empty_cache()

        for _ in range(2):
            cached = [take(1024) for _ in range(7)]
            del cached
        note("cached")
        large = take(2048)
        note("retried")
        del large
        torch.cuda.empty_cache()
        """
    return seen_on(
        textwrap.dedent(without_settings)
        + LARGE_THEN_SMALL
        + TWO_THAT_MERGE
        + CACHED_THEN_MORE
    )


def test_up_to_a_mebibyte_shares_segments_of_two(default):
    assert segment_sizes(default["one mebibyte"]) == [2 * MiB]
    assert default["a byte"]["reserved"] == default["more than ten"]["reserved"]


def test_up_to_ten_mebibytes_shares_segments_of_twenty(default):
    assert segment_sizes(default["more than one"]) == [2 * MiB, 20 * MiB]


def test_beyond_a_segment_is_the_request_in_steps_of_two(default):
    assert segment_sizes(default["more than ten"]) == [2 * MiB, 20 * MiB, 22 * MiB]


def test_the_rest_of_a_large_segment_up_to_a_mebibyte_stays_in_the_block(default):
    before, after = default["more than one"], default["more than ten"]
    assert after["requested"] - before["requested"] == 21 * MiB + 1
    assert after["allocated"] - before["allocated"] == 22 * MiB


def test_a_block_is_a_multiple_of_512_bytes(default):
    before, after = default["more than ten"], default["a byte"]
    assert after["requested"] - before["requested"] == 1
    assert after["allocated"] - before["allocated"] == 512


def test_freed_blocks_stay_reserved_until_the_cache_is_emptied(default):
    assert default["all freed"]["allocated"] == 0
    assert default["all freed"]["reserved"] == default["a byte"]["reserved"]
    assert default["emptied"]["reserved"] == 0


@pytest.mark.parametrize("moment", ["a byte", "all freed", "full", "cached", "retried"])
def test_sums_are_those_of_the_snapshot(default, moment):
    noted = default[moment]
    blocks = [block for segment in noted["segments"] for block in segment["blocks"]]
    active = [block for block in blocks if block["state"] == "active_allocated"]
    assert noted["reserved"] == sum(segment_sizes(noted))
    assert noted["reserved"] == sum(block["size"] for block in blocks)
    assert noted["allocated"] == sum(block["size"] for block in active)
    assert noted["requested"] == sum(block["requested_size"] for block in active)


def test_the_driver_gives_what_is_not_reserved(default):
    for moment in ("one mebibyte", "a byte", "emptied", "full", "retried"):
        noted = default[moment]
        assert noted["free"] == 8 * GiB - 500 * MiB - noted["reserved"]


def test_memory_ends_at_the_capacity_to_the_byte(default):
    assert "Tried to allocate 7.51 GiB" in default["too much"]
    assert default["full"]["free"] == 0
    assert default["full"]["allocated"] == 8 * GiB - 500 * MiB
    assert default["a byte more"].startswith("CUDA out of memory. Tried to allocate 2")


def test_the_message_tells_capacity_free_and_allocated(default):
    message = default["a byte more"]
    assert "GPU 0 has a total capacity of 8.00 GiB of which 0 bytes is free" in message
    assert "this process has 8.00 GiB memory in use" in message
    assert "7.51 GiB is allocated by PyTorch" in message


def test_a_caught_error_leaves_the_device_usable(default):
    assert default["after the error"]["ooms"] == 2
    assert default["recovered"]["allocated"] == MiB


def test_cached_segments_are_given_back_before_it_fails(default):
    assert default["cached"]["reserved"] == 7 * GiB
    before = default["recovered"]["retries"]
    assert default["cached"]["retries"] == before
    assert default["retried"]["retries"] == before + 1
    assert segment_sizes(default["retried"]) == [2 * GiB]


def test_the_capacity_can_be_any_number_of_bytes(seen_on):
    seen = seen_on(
        """
        seen["info"] = torch.cuda.mem_get_info()
        seen["properties"] = torch.cuda.get_device_properties(0).total_memory
        pages = seen["info"][0] // (2 * MiB)
        whole = take(2 * pages)
        seen["fails"] = fails(2)
        """,
        total_bytes=3 * GiB + 12345,
        context_bytes=300 * MiB,
    )
    assert seen["info"] == [3 * GiB + 12345 - 300 * MiB, 3 * GiB + 12345]
    assert seen["properties"] == 3 * GiB + 12345
    assert "total capacity of 3.00 GiB of which 12.06 KiB is free" in seen["fails"]


# ---- expandable_segments ----


@pytest.fixture(scope="module")
def expandable(seen_on):
    return seen_on(
        TWO_THAT_MERGE
        + textwrap.dedent(
            """
            small = take(0, 1)
            large = take(100), take(100)
            note("small")
            del large
            torch.cuda.empty_cache()
            note("emptied")
            free_bytes = torch.cuda.mem_get_info()[0]
            seen["fits"] = fails(20 * (free_bytes // (20 * MiB)))
            torch.cuda.empty_cache()
            seen["too much"] = fails(0, free_bytes + 1)
            """
        ),
        "expandable_segments:True",
    )


def test_segments_of_their_own_do_not_merge(default):
    assert segment_sizes(default["both"]) == [100 * MiB, 100 * MiB, 200 * MiB]


def test_an_expandable_segment_serves_both(expandable):
    (segment,) = expandable["both"]["segments"]
    assert segment["is_expandable"]
    assert segment["total_size"] == 200 * MiB
    assert expandable["both"]["reserved"] == expandable["two"]["reserved"]


def test_small_requests_expand_a_segment_of_their_own_by_2_mib(expandable):
    assert segment_sizes(expandable["small"]) == [2 * MiB, 200 * MiB]


def test_emptying_the_cache_unmaps_whole_pages(expandable):
    assert expandable["emptied"]["reserved"] == 2 * MiB
    assert expandable["emptied"]["free"] == 8 * GiB - 502 * MiB


def test_expandable_segments_end_at_the_capacity(expandable):
    assert expandable["fits"] == "it fits"
    assert expandable["too much"].startswith("CUDA out of memory")


# ---- max_split_size_mb ----


@pytest.fixture(scope="module")
def split_to_64(seen_on):
    oversize = """
    ordinary, oversize = take(32), take(4000)
    del ordinary, oversize
    other = take(3900)
    note("other")
    """
    return seen_on(LARGE_THEN_SMALL + textwrap.dedent(oversize), "max_split_size_mb:64")


def test_a_large_block_is_split_by_default(default):
    for moment in ("small", "almost", "less"):
        assert segment_sizes(default[moment]) == [256 * MiB]


def test_max_split_size_keeps_large_blocks_from_small_requests(split_to_64):
    assert segment_sizes(split_to_64["small"]) == [32 * MiB, 256 * MiB]


def test_a_large_request_takes_a_block_whole_if_little_of_it_is_left(split_to_64):
    assert split_to_64["almost"]["allocated"] == 256 * MiB  # for 240
    assert segment_sizes(split_to_64["less"]) == [32 * MiB, 230 * MiB, 256 * MiB]


def test_under_max_split_size_an_oversize_block_is_given_back_alone(split_to_64):
    assert segment_sizes(split_to_64["other"]) == [32 * MiB, 3900 * MiB]


# ---- garbage_collection_threshold ----


def test_cached_segments_stay_while_there_is_room(default):
    assert segment_sizes(default["more"]) == [1 * GiB, 2 * GiB]


def test_above_the_threshold_cached_segments_are_given_back(seen_on):
    # 1 GiB is more than a fifth of the 4 GiB that the process may take.
    seen = seen_on(CACHED_THEN_MORE, "garbage_collection_threshold:0.2")
    assert segment_sizes(seen["more"]) == [2 * GiB]
    assert seen["more"]["retries"] == 0


def test_below_the_threshold_they_stay(seen_on):
    seen = seen_on(CACHED_THEN_MORE, "garbage_collection_threshold:0.3")
    assert segment_sizes(seen["more"]) == [1 * GiB, 2 * GiB]


# ---- roundup_power2_divisions ----


def test_requests_are_rounded_to_a_division_of_a_power_of_two(seen_on):
    seen = seen_on('nine = take(9)\nnote("nine")', "roundup_power2_divisions:4")
    # Between 8 and 16 MiB in four steps: 10, 12, 14.
    assert seen["nine"]["allocated"] == 10 * MiB
    assert seen["nine"]["requested"] == 9 * MiB
