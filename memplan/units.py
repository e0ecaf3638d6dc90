"""Bytes in, readable sizes out.

Inside memplan every size is an `int` of bytes named `*_bytes`. GiB (2**30) appear only
where something is printed; GB means 10**9 and is used for published decimal figures.
"""

KiB = 2**10
MiB = 2**20
GiB = 2**30
GB = 10**9


def format_gib(size_bytes: int) -> str:
    """`size_bytes` in GiB with two decimals, or in MiB or bytes where GiB show 0.00.

    >>> format_gib(85017755648)
    '79.18 GiB'
    >>> format_gib(5_000_000)
    '4.77 MiB'
    """
    magnitude = abs(size_bytes)
    if magnitude >= GiB // 100:
        return f"{size_bytes / GiB:.2f} GiB"
    if magnitude >= MiB // 100:
        return f"{size_bytes / MiB:.2f} MiB"
    return f"{size_bytes} B"


def format_size(size_bytes: int) -> str:
    """As PyTorch writes sizes in its messages, each in its own unit.

    >>> format_size(180355072), format_size(1536)
    ('172.00 MiB', '1.50 KiB')
    """
    for unit, size in (("GiB", GiB), ("MiB", MiB), ("KiB", KiB)):
        if abs(size_bytes) >= size:
            return f"{size_bytes / size:.2f} {unit}"
    return f"{size_bytes} B"


def format_count(count: int) -> str:
    """A parameter count as people say it: `8.03B`, `124.44M`, `512`.

    >>> format_count(8030261248)
    '8.03B'
    """
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= size:
            return f"{count / size:.2f}{unit}"
    return str(count)


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `value`."""
    return -(-value // multiple) * multiple


def ceil_div(value: int, divisor: int) -> int:
    """Integer division that rounds up."""
    return -(-value // divisor)
