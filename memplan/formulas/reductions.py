"""Scratch memory of sums over rows: how PyTorch splits them across a card.

The gradient of a bias or of a norm's weight sums a tall matrix over its rows. Where
rows are many, PyTorch lets several blocks of threads work on one column and gathers
their parts in a buffer of global memory, which can be larger than the matrix.
"""

from memplan.units import ceil_div

THREADS_PER_SM = {(7, 5): 1024, (8, 6): 1536, (8, 7): 1536, (8, 9): 1536, (12, 0): 1536}
"""Resident threads of a multiprocessor where they are not 2048 (CUDA programming
guide, technical specifications per compute capability)."""

MAX_THREADS = 512
WARP_SIZE = 32
MIN_VALUES_PER_THREAD = 16
MAX_VALUES_PER_THREAD = 256


def row_sum_bytes(
    num_rows: int,
    num_columns: int,
    item_bytes: int,
    compute_capability: tuple[int, int],
    num_sms: int,
) -> int:
    """Scratch of `x.sum(0)` of a contiguous matrix; 0 where no column is split.

    Source: `native/cuda/Reduce.cuh`, setReduceConfig and global_memory_size: 4 bytes
    for each column, part and thread of a block's width, times the vector width. For
    [6304, 3072] on an H100 that is 132 MiB. Read in torch 2.14, and equal to the byte
    to what its allocator was asked for on a virtual CUDA device. A matrix beyond 2 GiB
    is summed in halves.
    """
    if num_rows < 2 or num_columns < 1:
        return 0
    while num_rows * num_columns * item_bytes > 2**31:
        num_rows //= 2
    vector = next(size for size in (4, 2, 1) if num_columns % size == 0)
    num_vectors = num_columns // vector
    most = MAX_THREADS // vector
    across = min(_power_of_two_below(num_vectors), most)
    down = min(_power_of_two_below(num_rows), most)
    height = min(down, most // min(across, WARP_SIZE))
    width = min(across, most // height)
    if num_rows < min(16 * height, MAX_VALUES_PER_THREAD):
        return 0
    values_per_thread = ceil_div(num_rows, height)
    num_blocks = ceil_div(num_vectors, width)
    threads_per_sm = THREADS_PER_SM.get(compute_capability, 2048)
    wanted_blocks = num_sms * (threads_per_sm // (width * height))
    if values_per_thread < MAX_VALUES_PER_THREAD or num_blocks > wanted_blocks:
        return 0
    parts = max(
        ceil_div(values_per_thread, MAX_VALUES_PER_THREAD),
        min(
            ceil_div(wanted_blocks, num_blocks),
            ceil_div(values_per_thread, MIN_VALUES_PER_THREAD),
        ),
    )
    return 4 * num_columns * parts * width * vector if parts > 1 else 0


def _power_of_two_below(value: int) -> int:
    """The largest power of two that is not above `value`."""
    return 1 << (value.bit_length() - 1)
