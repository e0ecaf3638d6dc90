"""What PyTorch allocates for cuDNN on a virtual card.

Workspaces are cuDNN's own answers for the card described, so no number of them is kept
here: they are compared between cards, layouts and with cuDNN switched off.
"""

import json

import pytest

TRACE = """
import atexit, json, time, torch, torch.nn as nn

# A program that ends as soon as its backward has started the autograd engine's threads
# can meet them in the midst of their clean-up, and abort (seen with CPython 3.11).
atexit.register(time.sleep, 0.2)

def allocated(step):
    record = torch.cuda.memory._record_memory_history
    record(max_entries=100000, clear_history=True)
    step()
    events = torch.cuda.memory._snapshot()["device_traces"][0]
    record(enabled=None)
    return [event["size"] for event in events if event["action"] == "alloc"]
"""

CONVOLUTION = """
layer = nn.Conv2d(64, 64, 3, padding=1).cuda().to(torch.bfloat16)
x = torch.empty(64, 64, 56, 56, device="cuda", dtype=torch.bfloat16)
on = allocated(lambda: layer(x))
with torch.backends.cudnn.flags(enabled=False):
    off = allocated(lambda: layer(x))
layer, x = (t.to(memory_format=torch.channels_last) for t in (layer, x))
print(json.dumps([on, off, allocated(lambda: layer(x))]))
"""


def traced(run_on, gpu, code, **options):
    return json.loads(run_on(gpu, TRACE + code, **options).splitlines()[-1])


def test_a_convolution_gets_the_workspace_of_the_card(run_on):
    output = 64 * 64 * 56 * 56 * 2
    on, off, channels_last = traced(run_on, "h100-80gb", CONVOLUTION)
    assert on[0] == channels_last[0] == output
    # cuDNN turns NCHW into its own layout first: input and output lie there twice.
    assert on[1] > 2 * output
    assert sum(channels_last[1:]) < output
    assert on != off
    assert traced(run_on, "a100-80gb", CONVOLUTION)[0] != on


def test_a_convolution_runs_without_the_heuristics_and_says_so(run_on):
    code = """
    import ctypes
    layer = nn.Conv2d(3, 8, 3).cuda()
    sizes = allocated(lambda: layer(torch.empty(1, 3, 8, 8, device="cuda")))
    text = ctypes.create_string_buffer(4096)
    library = "libcudart.so." + torch.version.cuda.split(".")[0]
    ctypes.CDLL(library).vd_unsupported_calls(text, ctypes.c_size_t(4096))
    print(json.dumps([sizes, text.value.decode()]))
    """
    variables = {"MEMPLAN_CUDNN": "/nowhere/libcudnn.so.9"}
    code = "\n".join(line.removeprefix("    ") for line in code.splitlines())
    sizes, unsupported = traced(run_on, "h100-80gb", code, variables=variables)
    assert sizes == [3 * 8 * 8 * 4, 8 * 6 * 6 * 4]
    assert "cudnn heuristics (the library was not found) 1" in unsupported


NORM = """
def sizes(dtype, channels, memory_format):
    norm = nn.BatchNorm2d(channels).cuda()
    x = torch.empty(32, channels, 56, 56, device="cuda", dtype=dtype)
    x = x.to(memory_format=memory_format).requires_grad_()
    outputs = []
    forward = allocated(lambda: outputs.append(norm(x)))
    gradient = torch.empty_like(outputs[0])
    return [forward, allocated(lambda: outputs[0].backward(gradient))]

print(json.dumps([
    sizes(torch.float16, 64, torch.contiguous_format),
    sizes(torch.float16, 64, torch.channels_last),
    sizes(torch.float32, 64, torch.channels_last),
    sizes(torch.float16, 256, torch.channels_last),
    sizes(torch.float32, 65, torch.channels_last),
]))
"""


def test_batch_norm_gets_the_workspaces_that_cudnn_answers(run_on):
    # cudnnGetBatchNormalization...WorkspaceSize of cuDNN 9.24, forward and backward
    expected = [(325124, 536612), (810164, 536612), (1297280, 2143280)]
    expected.append((1035972, 670516))
    plain, *channels_last = traced(run_on, "h100-80gb", NORM)
    assert not {325124, 536612} & {size for part in plain for size in part}
    for sizes, (forward, backward) in zip(channels_last, expected, strict=True):
        assert forward in sizes[0]
        assert backward in sizes[1]


RECURRENT = """
def sizes(kind, dtype=torch.float32, **options):
    network = getattr(nn, kind)(64, 128, **options).cuda().to(dtype)
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    flat = network._flat_weights[0].untyped_storage().nbytes()
    x = torch.empty(10, 4, 64, device="cuda", dtype=dtype, requires_grad=True)
    outputs = []
    forward = allocated(lambda: outputs.append(network(x)[0]))
    outputs[0].backward(torch.empty_like(outputs[0]))
    return [weights == flat, forward]

print(json.dumps([
    sizes("LSTM"),
    sizes("LSTM", torch.float16),
    sizes("LSTM", num_layers=2, bidirectional=True),
    sizes("LSTM", proj_size=32),
    sizes("GRU", num_layers=2),
    sizes("RNN"),
]))
"""


def test_recurrent_networks_keep_the_reserve_that_cudnn_answers(run_on):
    # cudnnGetRNNTempSpaceSizes of cuDNN 9.24
    reserves = [102656, 51456, 450816, 128256, 266496, 20736]
    answers = traced(run_on, "h100-80gb", RECURRENT)
    for (is_flat, forward), reserve in zip(answers, reserves, strict=True):
        assert is_flat
        assert reserve in forward


@pytest.mark.parametrize("gpu", ["h100-80gb", "a100-80gb", "rtx-4090", "t4"])
def test_convolutions_of_every_shape_train(run_on, gpu):
    code = """
    kinds = [
        (nn.Conv2d(32, 64, 3, groups=8), (2, 32, 20, 20)),
        (nn.Conv2d(32, 32, 7, padding=3, groups=32), (2, 32, 20, 20)),
        (nn.Conv2d(32, 32, 3, dilation=4), (2, 32, 20, 20)),
        (nn.ConvTranspose2d(32, 16, 4, 2), (2, 32, 20, 20)),
        (nn.Conv3d(3, 16, 3), (2, 3, 8, 20, 20)),
        (nn.Conv1d(32, 32, 3), (2, 32, 99)),
    ]
    for dtype in (torch.float16, torch.float32):
        for layer, shape in kinds:
            x = torch.empty(shape, device="cuda", dtype=dtype, requires_grad=True)
            layer.cuda().to(dtype)(x).float().sum().backward()
            assert x.grad.shape == x.shape
    print(json.dumps("trained"))
    """
    code = "\n".join(line.removeprefix("    ") for line in code.splitlines())
    assert traced(run_on, gpu, code) == "trained"


def test_attention_of_cudnn_is_offered(run_on):
    code = """
from torch.nn.attention import SDPBackend, sdpa_kernel
q, k, v = (
    torch.empty(2, 8, 256, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    for _ in range(3)
)
with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
    out = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
out.backward(torch.empty_like(out))
print(json.dumps(type(out.grad_fn).__name__))
"""
    assert "CudnnAttention" in traced(run_on, "h100-80gb", code)
