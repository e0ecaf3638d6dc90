"""The fused kernels of scaled_dot_product_attention: which can run, what they take.

The rules are those of `native/transformers/cuda/sdp_utils.cpp`, the sizes those of the
kernels' own host code. Both were read in torch 2.14 and are equal to the byte to what
its allocator was asked for on a virtual CUDA device of capability 7.5 to 12.0.

Letters: B batch, H query heads, G key-value heads, L query length, S key length,
K size of a head, V that of its values.
"""

from dataclasses import dataclass

from memplan.formulas.tensors import ITEM_BYTES
from memplan.units import ceil_div, round_up

SMALL_SHARED_MEMORY = ((8, 6), (8, 9), (12, 0), (12, 1))
"""Capabilities of 8.0 and above whose blocks have 99 KiB of shared memory, not 163 or
more (CUDA programming guide, technical specifications per compute capability)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call of scaled_dot_product_attention."""

    dtype: str
    B: int
    H: int
    G: int
    L: int
    S: int
    K: int
    compute_capability: tuple[int, int]
    num_sms: int
    torch_version: tuple[int, int]
    causal: bool = False
    has_mask: bool = False
    trains_mask: bool = False
    """The mask wants a gradient: a learned bias of positions."""
    dropout: float = 0.0
    trains: bool = True
    """Query, key or value wants a gradient."""
    value_size: int | None = None
    """Size of a head of values, where it is not K."""

    @property
    def V(self) -> int:  # noqa: N802 - the letter of the legend
        return self.value_size or self.K

    @property
    def is_half(self) -> bool:
        return self.dtype in ("bf16", "fp16")

    @property
    def is_grouped(self) -> bool:
        return self.H != self.G


def choose_kernel(call: Call) -> str:
    """The kernel PyTorch takes by itself on CUDA: the first that can run.

    cuDNN comes first on compute capability 9.x and 10.x from torch 2.14 on.
    """
    order = ["flash", "efficient"]
    if call.torch_version >= (2, 14) and call.compute_capability[0] in (9, 10):
        order.insert(0, "cudnn")
    return next((kernel for kernel in order if not why_not(kernel, call)), "math")


def why_not(kernel: str, call: Call) -> str | None:
    """Why a kernel cannot run, or None where it can."""
    match kernel:
        case "flash":
            return _why_not_flash(call)
        case "efficient":
            return _why_not_efficient(call)
        case "cudnn":
            return _why_not_cudnn(call)
        case _:
            return None


def _why_not_half(call: Call) -> str | None:
    """What flash and cuDNN attention both need."""
    major, minor = call.compute_capability
    if call.compute_capability < (8, 0):
        return f"it needs compute capability 8.0, and the card has {major}.{minor}"
    if not call.is_half:
        return f"it needs fp16 or bf16, and attention runs in {call.dtype} here"
    return None


def _why_not_flash(call: Call) -> str | None:
    reason = _why_not_half(call)
    if reason:
        return reason
    if call.has_mask:
        return "it takes no mask, and the model passes one"
    if call.K > 256:
        return f"it needs heads of at most 256, and the model's have {call.K}"
    if call.V != call.K:
        return f"it needs values as wide as keys, and heads are {call.K} and {call.V}"
    major, minor = call.compute_capability
    is_narrow = (8, 6) <= (major, minor) <= (8, 9) or major == 12
    untrained = 256 if call.dropout else 224
    if call.trains and is_narrow and 192 < call.K <= untrained:
        return (
            f"on compute capability {major}.{minor} it cannot train heads of {call.K}"
            + (" with dropout" if call.K > 224 else "")
        )
    if call.causal and call.L != call.S:
        return "it is causal only over as many keys as queries"
    return None


def _why_not_efficient(call: Call) -> str | None:
    major, minor = call.compute_capability
    if call.dtype == "bf16" and major < 8:
        return (
            f"in bf16 it needs compute capability 8.0, and the card has {major}.{minor}"
        )
    if call.is_grouped and call.torch_version < (2, 14):
        return "it needs as many key heads as query heads before torch 2.14"
    multiple = 8 if call.is_half else 4 if major >= 8 else 1
    if call.K % multiple or call.V % multiple:
        return (
            f"it needs heads of a multiple of {multiple}, and the model's have {call.K}"
        )
    return None


def _why_not_cudnn(call: Call) -> str | None:
    reason = _why_not_half(call)
    if reason:
        return reason
    if call.trains_mask:
        return "it takes no mask that is trained, as a bias of positions is"
    if call.dropout * 16 % 1:
        return f"it drops out multiples of 1/16, and the model {call.dropout}"
    if call.S == 1 or (call.dropout and call.L == 1):
        return "it needs more than one token"
    if call.K % 8:
        return f"it needs heads of a multiple of 8, and the model's have {call.K}"
    is_wide = call.compute_capability[0] in (9, 10) and call.torch_version >= (2, 14)
    if is_wide and (call.K == 256 or (call.K <= 256 and not call.trains)):
        return None
    if is_wide and (call.K, call.V) == (192, 128):
        return None  # as latent attention has them
    if call.K > 128:
        return f"it needs heads of at most 128, and the model's have {call.K}"
    return None


def statistics_bytes(kernel: str, call: Call) -> int:
    """The log-sum-exp of each row in fp32, which backward needs."""
    rows = round_up(call.L, 32) if kernel == "efficient" else call.L
    return 4 * call.B * call.H * rows


def forward_bytes(kernel: str, call: Call) -> int:
    """Scratch of the forward pass.

    Flash: where blocks of queries are too few for the card, keys are split, and each
    split has an output and a sum in fp32 (`flash_attn/flash_api.cpp`,
    set_params_splitkv). Efficient: an fp32 output where a head is above 128.
    """
    B, H, L, K = call.B, call.H, call.L, call.K
    if kernel == "flash" and not call.dropout:
        splits = _flash_splits(call)
        K32 = round_up(round_up(K, 8), 32 if K <= 128 else 64)
        return 4 * splits * B * H * L * (K32 + 1) if splits > 1 else 0
    if kernel == "efficient" and call.is_half and max(K, call.V) > 128:
        return 4 * B * H * L * call.V
    return 0


def _flash_splits(call: Call) -> int:
    """`num_splits_heuristic`: the fewest splits of the keys that fill the card well."""
    num_units = 2 * call.num_sms
    num_blocks = call.B * call.H * ceil_div(call.L, 64)
    if num_blocks >= 0.8 * num_units:
        return 1
    keys = 256 if call.K <= 64 else 128 if call.K <= 128 else 64
    num_key_blocks = ceil_div(call.S, keys)
    efficiencies = {}
    for splits in range(1, min(128, num_units, num_key_blocks) + 1):
        blocks_each = ceil_div(num_key_blocks, splits)
        if splits == 1 or blocks_each != ceil_div(num_key_blocks, splits - 1):
            num_waves = num_blocks * splits / num_units
            efficiencies[splits] = num_waves / ceil_div(num_blocks * splits, num_units)
    enough = 0.85 * max(efficiencies.values())
    return next(splits for splits, value in efficiencies.items() if value >= enough)


def backward_bytes(kernel: str, call: Call) -> int:
    """Scratch of the backward pass, beside the gradients it returns."""
    match kernel:
        case "flash":
            return _flash_backward_bytes(call)
        case "efficient":
            return _efficient_backward_bytes(call)
        case _:
            return _cudnn_backward_bytes(call)


def _flash_backward_bytes(call: Call) -> int:
    """softmax_d [B, H, L128] and the accumulated dq [B, L128, H, K32] in fp32.

    For grouped heads dk and dv at all query heads (`flash_attn/flash_api.cpp`,
    mha_bwd). A K that is no multiple of 8 is padded by the caller.
    """
    B, H, L128 = call.B, call.H, round_up(call.L, 128)
    K8 = round_up(call.K, 8)
    K32 = round_up(K8, 32 if K8 <= 128 else 64)
    grouped = 2 * 2 * B * call.S * H * K8 if call.is_grouped else 0
    return 4 * B * H * L128 + 4 * B * L128 * H * K32 + grouped


def _efficient_backward_bytes(call: Call) -> int:
    """delta [B, H, L] in fp32, and the kernel's workspace.

    In fp32 delta is made from the product of gradient and output, which is larger than
    the workspace where heads are few. Grouped heads make dk and dv at all query heads
    (`native/transformers/cuda/attention_backward.cu`).
    """
    item_bytes = ITEM_BYTES[call.dtype]
    delta = 4 * call.B * call.H * call.L
    product = 0 if call.is_half else 4 * call.B * call.H * call.L * call.V + delta
    grouped = 0
    if call.is_grouped:
        grouped = 2 * item_bytes * call.B * call.H * call.S * call.K
    return delta + max(_efficient_workspace_bytes(call), product) + grouped


def _efficient_workspace_bytes(call: Call) -> int:
    """dq in fp32, tile by tile with 16 bytes of locks; for some tiles dk and dv too.

    Source: `mem_eff_attention/kernel_backward.h`, workspace_size, and the choice of
    `num_splits_key` in `attention_backward.cu`.
    """
    rows, columns, in_registers = _efficient_tile(call)
    heads = call.B * call.H
    num_tiles = ceil_div(call.L, rows) * ceil_div(call.K, columns)
    num_floats = num_tiles * (rows * columns + 4)
    if call.is_half and not in_registers:
        splits = ceil_div(call.S, columns)
        if heads >= 256 and splits <= 2:
            splits = 1
        splits = max(min(splits, 200 // heads), 1)
        width = round_up(call.K, rows) + round_up(call.V, rows)
        num_floats += splits * columns * width
    return 4 * heads * num_floats


def _efficient_tile(call: Call) -> tuple[int, int, bool]:
    """Rows and columns of a block, and whether dk and dv stay in registers.

    The first kernel of `mem_eff_attention/kernels/cutlassB.h` that takes the head and
    fits into shared memory.
    """
    capability = call.compute_capability
    is_large = capability >= (8, 0) and capability not in SMALL_SHARED_MEMORY
    if not call.is_half:
        return (128, 64, False) if call.K > 64 and is_large else (64, 64, False)
    if call.K <= 64:
        return 64, 64, True
    if call.K > 128:
        return 128, 64, False
    if is_large:
        return 128, 128, True
    if capability < (8, 0):
        return 128, 64, True
    if call.K <= 96 and not call.dropout and capability in ((8, 6), (8, 9)):
        return 128, 64, True
    return 64, 64, False


def _cudnn_backward_bytes(call: Call) -> int:
    """The workspace of cuDNN 9.24, as its own heuristics answer.

    On compute capability 9.x and 10.x: dq [B, H, L, K] and a row sum in fp32, and for
    grouped heads dk and dv at all query heads. Elsewhere dq twice, once for a multiple
    of 8 rows.
    """
    B, H, L, K = call.B, call.H, call.L, call.K
    major = call.compute_capability[0]
    grouped = 2 * 2 * B * call.S * H * K if call.is_grouped else 0
    sums = 4 * B * H * L
    gradient = 4 * B * H * L * K
    is_new = major == 9 or (
        major == 10 and min(L, call.S) > 128 and not (K > 128 and call.is_grouped)
    )
    if not is_new:
        return 2 * gradient + 4 * B * H * (round_up(L, 8) - L) * K + sums + grouped
    if major == 9:
        return gradient + sums + grouped + 256
    dropped = B * H * L * call.S // 8 if call.dropout else 0
    return (0 if K > 128 else gradient) + sums + dropped + grouped
