"""A capture as the runner writes it: a small decoder after three steps."""

import copy

MIB = 2**20


def figures(requested, allocated, reserved, end):
    return {
        "peak_requested_bytes": requested * MIB,
        "peak_allocated_bytes": allocated * MIB,
        "peak_reserved_bytes": reserved * MIB,
        "end_requested_bytes": end * MIB,
        "end_allocated_bytes": end * MIB,
        "end_reserved_bytes": reserved * MIB,
    }


def step(number, states):
    """A step whose optimizer states, in MiB, are there from the start or its end."""
    return {
        "step": number,
        "phases": [
            {"phase": "forward", **figures(2000 + states, 2010 + states, 3000, 1800)},
            {"phase": "loss", **figures(2100 + states, 2110 + states, 3000, 1900)},
            {"phase": "backward", **figures(2500 + states, 2520 + states, 3000, 1200)},
            {"phase": "optimizer", **figures(2300, 2310, 3000, 1600)},
        ],
    }


CAPTURE = {
    "pid": 4711,
    "rank": 0,
    "local_rank": 0,
    "world_size": 1,
    "argv": ["train.py"],
    "ended": "stopped",
    "versions": {
        "python": "3.11.7",
        "torch": "2.14.1+cu130",
        "cuda": "13.0",
        "cudnn": "9.24.0",
        "nccl": "2.29.3",
        "transformers": "5.23.0",
    },
    "device": {
        "index": 0,
        "name": "NVIDIA GeForce RTX 4090",
        "total_bytes": 24000 * MIB,
        "outside_bytes": 500 * MIB,
    },
    "allocator": "default",
    "model": {
        "name": "Decoder",
        "parameters": 100_000_000,
        "trainable_parameters": 100_000_000,
    },
    "steps": [step(1, 0), step(2, 400), step(3, 400)],
    "unfinished": None,
    "setup": figures(400, 402, 420, 400),
    "marked": [],
    "peak": {
        "step": 3,
        "phase": "backward",
        "module": "layers.0.mlp",
        "line": "train.py:31 main",
        "requested_bytes": 2900 * MIB,
        "allocated_bytes": 2920 * MIB,
        "reserved_bytes": 3000 * MIB,
    },
    "components": {
        "weights": 400 * MIB,
        "gradients": 300 * MIB,
        "optimizer_states": 800 * MIB,
        "activations": 1200 * MIB,
        "temporary_buffers": 150 * MIB,
        "functionality_specific": 0,
        "unattributed": 50 * MIB,
    },
    "holders": [
        {
            "bytes": 512 * MIB,
            "component": "activations",
            "module": "layers.*.mlp.activation",
            "name": "output",
            "shape": [8, 1024, 4096],
            "dtype": "bf16",
            "line": "model.py:57 forward",
            "count": 8,
        },
        {
            "bytes": 256 * MIB,
            "component": "optimizer_states",
            "module": "embedding",
            "name": "weight.exp_avg",
            "shape": [32768, 2048],
            "dtype": "fp32",
            "line": "train.py:33 main",
            "count": 1,
        },
        {
            "bytes": 64 * MIB,
            "component": "unattributed",
            "module": "",
            "name": "",
            "shape": None,
            "dtype": None,
            "line": "",
            "count": 2,
        },
    ],
    "segments": {
        "reserved_bytes": 3000 * MIB,
        "allocated_bytes": 1600 * MIB,
        "active_bytes": 1600 * MIB,
    },
    "retries": 0,
    "inactive_split_bytes": 60 * MIB,
    "out_of_memory": None,
    "unsupported": {
        "operators": [{"name": "aten::nonzero", "count": 3, "line": "train.py:12 f"}],
        "reads": [],
        "calls": [{"name": "cufftGetSize", "count": 1}],
    },
    "assumptions": ["labels were read as zero"],
    "error": None,
}

OUT_OF_MEMORY = {
    "step": 1,
    "phase": "backward",
    "module": "layers.3.mlp",
    "line": "train.py:31 main",
    "asked_bytes": 300 * MIB,
    "segment_bytes": 300 * MIB,
    "free_bytes": 120 * MIB,
    "allocated_bytes": 2200 * MIB,
    "reserved_bytes": 2400 * MIB,
    "message": "CUDA out of memory. Tried to allocate 300.00 MiB.",
    "components": {
        "weights": 400 * MIB,
        "gradients": 100 * MIB,
        "activations": 1600 * MIB,
        "temporary_buffers": 60 * MIB,
        "unattributed": 20 * MIB,
    },
    "holders": CAPTURE["holders"][:1],
    "caught": False,
}


def capture(**changes):
    """That capture with other values."""
    return {**copy.deepcopy(CAPTURE), **changes}


def out_of_memory_capture():
    """The same program on a card that is too small."""
    return capture(
        ended="out_of_memory",
        steps=[],
        peak=None,
        components=None,
        holders=[],
        out_of_memory=copy.deepcopy(OUT_OF_MEMORY),
    )
