"""Published arithmetic of training memory, as its papers give it.

ZeRO: Rajbhandari et al. 2020, arXiv 1910.02054. Activations: Korthikanti et al. 2022,
arXiv 2205.05198. The papers' own formulas as pure functions, against which memplan's
are tested. Letters of the papers: s sequence length, b micro-batch, h hidden size,
a heads, L layers, v vocabulary, t tensor-parallel and p pipeline-parallel size,
m interleaved stages, N ranks, psi parameters.
"""

from fractions import Fraction
from typing import Literal

ZERO_BYTES_PER_PARAMETER = 2 + 2 + 12
"""fp16 weights and gradients; K = 12: fp32 weights and two moments (section 3.1)."""

Recompute = Literal["none", "selective", "full"]


def zero_bytes(psi: int, stage: int, N: int) -> Fraction:
    """Model states of one rank (ZeRO, section 5 and Figure 1).

    Stage 0: 16 psi. P_os: 4 psi + 12 psi / N. P_os+g: 2 psi + 14 psi / N.
    P_os+g+p: 16 psi / N.
    """
    sharded = {0: 0, 1: 12, 2: 14, 3: 16}[stage]
    return Fraction(psi * (ZERO_BYTES_PER_PARAMETER - sharded)) + Fraction(
        psi * sharded, N
    )


def zero_max_parameters(memory_bytes: int, stage: int, N: int) -> Fraction:
    """Parameters whose model states fill a device (ZeRO, Table 2)."""
    return memory_bytes / zero_bytes(1, stage, N)


def zero_activation_bytes(h: int, b: int, s: int, L: int) -> int:
    """fp16 activations of a GPT-2-like model: 12 h b s L elements (section 3.2)."""
    return 2 * 12 * h * b * s * L


def layer_activation_bytes(
    s: int,
    b: int,
    h: int,
    a: int,
    *,
    t: int = 1,
    sequence_parallel: bool = False,
    recompute: Recompute = "none",
) -> Fraction:
    """Saved activations of one transformer layer in fp16 (Korthikanti, Table 2).

    none: sbh (34 + 5 as/h); tensor parallel: sbh (10 + 24/t + 5 as/ht); with sequence
    parallelism: sbh (34/t + 5 as/ht). Selective recomputation drops the terms of the
    attention core; full keeps the layer's input, 2 sbh.
    """
    if recompute == "full":
        return Fraction(2 * s * b * h)
    outside = Fraction(10, t if sequence_parallel else 1)
    core = Fraction(0) if recompute == "selective" else Fraction(5 * a * s, h * t)
    return s * b * h * (outside + Fraction(24, t) + core)


def first_stage_activation_bytes(
    layer_bytes: Fraction, L: int, *, p: int = 1, m: int = 1
) -> Fraction:
    """All layers' activations on the first pipeline stage (Korthikanti, section 4.2.3).

    With 1F1B it holds p micro-batches of L / p layers: L layers' worth; interleaving
    m stages multiplies by 1 + (p - 1) / (p m).
    """
    factor = Fraction(1) if m == 1 else 1 + Fraction(p - 1, p * m)
    return layer_bytes * L * factor


def megatron_parameters(h: int, L: int, v: int, s: int) -> Fraction:
    """12 L h^2 (1 + 13 / 12h + (v + s) / 12 L h)."""
    return 12 * L * h**2 * (1 + Fraction(13, 12 * h) + Fraction(v + s, 12 * L * h))
