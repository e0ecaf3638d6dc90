"""PyTorch on the virtual device: what it sees, what it reads back, what it can do."""

import json

import pytest

from memplan.units import GiB, MiB

FORGETTING = """
import ctypes, json, torch
from torch.cuda import _gpu_trace

card = ctypes.CDLL("libcudart.so.%s" % torch.version.cuda.split(".")[0])
card.vd_forget.argtypes = card.vd_forget_freed.argtypes = [ctypes.c_void_p]
torch._C._activate_gpu_trace()
_gpu_trace.register_callback_for_memory_allocation(lambda block: card.vd_forget(block))
_gpu_trace.register_callback_for_memory_deallocation(
    lambda block: card.vd_forget_freed(block))

def unsupported():
    text = ctypes.create_string_buffer(4096)
    card.vd_unsupported_calls(text, ctypes.c_size_t(4096))
    return text.value.decode().splitlines()
"""


@pytest.fixture
def seen_on(run_on):
    """What a piece of code says at its end, with the blocks of PyTorch's allocator
    forgotten as the runner does it."""

    def seen(code, gpu="h100-80gb", **options):
        body = FORGETTING + "\n".join(line[8:] for line in code.splitlines())
        return json.loads(run_on(gpu, body, **options).splitlines()[-1])

    return seen


def test_cards_are_seen_as_they_are_described(seen_on):
    code = """
        first, last = (torch.cuda.get_device_properties(i) for i in (0, 3))
        print(json.dumps([
            torch.cuda.device_count(), first.name, first.major, first.minor,
            first.multi_processor_count, first.total_memory,
            torch.cuda.mem_get_info(3), str(first.uuid) != str(last.uuid),
            last.pci_bus_id - first.pci_bus_id,
        ]))
    """
    options = {"num_devices": 4, "total_bytes": 24 * GiB, "context_bytes": 300 * MiB}
    assert seen_on(code, "rtx-4090", **options) == [
        *(4, "NVIDIA GeForce RTX 4090", 8, 9, 128, 24 * GiB),
        *([24 * GiB - 300 * MiB, 24 * GiB], True, 3),
    ]


def test_what_the_host_gave_comes_back_and_travels(seen_on):
    code = """
        x = torch.arange(6.0).cuda()
        y = x.clone()
        z = torch.empty(2, 6, device="cuda:1")
        z[0] = x
        print(json.dumps([x.tolist(), y.tolist(), z.tolist(), x[2].item()]))
    """
    whole = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    seen = seen_on(code, num_devices=2)
    assert seen == [whole, whole, [whole, [0.0] * 6], 2.0]


def test_what_kernels_compute_reads_as_zero_and_all_as_true(seen_on):
    code = """
        for _ in range(3): # blocks are handed out again, with values left in them
            torch.full((100,), 7.0).cuda()
        x = torch.full((100,), 7.0, device="cuda")
        print(json.dumps([
            x.tolist(), x.sum().item(), (x > 0).any().item(), (x > 0).all().item(),
            torch.isfinite(x).all().item(), torch.equal(x, x + 1),
            torch.nonzero(x).shape[0], torch.unique(x).shape[0],
        ]))
    """
    assert seen_on(code) == [[0.0] * 100, 0.0, False, True, True, True, 0, 0]


def test_large_tensors_go_to_the_card_and_back_without_values(seen_on):
    code = """
        x = torch.ones(64, 2**20).cuda()
        y, z = x.cpu(), torch.empty(x.shape).pin_memory()
        z.copy_(x, non_blocking=True)
        print(json.dumps([x[0, 0].item(), y[63, 5].item(), z[63, 5].item()]))
    """
    assert seen_on(code) == [0.0, 0.0, 0.0]


def test_training_asks_for_nothing_that_is_not_played(seen_on):
    code = """
        from torch import nn
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.convolve = nn.Conv2d(3, 64, 4, 4)
                self.norm = nn.BatchNorm2d(64)
                self.encode = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
                self.embed = nn.Embedding(100, 64)
                self.head = nn.Linear(64, 100)
            def forward(self, images, words):
                seen = self.norm(self.convolve(images)).flatten(2).transpose(1, 2)
                both = torch.cat([seen, self.embed(words)], 1)
                return self.head(self.encode(both))[:, -words.shape[1]:]
        model = Model().cuda()
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        scaler = torch.amp.GradScaler("cuda")
        words = torch.randint(0, 100, (8, 16)).pin_memory()
        for _ in range(3):
            images = torch.randn(8, 3, 32, 32, device="cuda")
            targets = words.to("cuda", non_blocking=True)
            with torch.autocast("cuda", torch.float16):
                logits = model(images, targets).flatten(0, 1)
                loss = nn.functional.cross_entropy(logits, targets.flatten())
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        print(json.dumps([loss.item(), unsupported()]))
    """
    assert seen_on(code) == [0.0, []]


def test_a_graph_has_a_pool_of_its_own_and_replays(seen_on):
    code = """
        model = torch.nn.Linear(512, 512).cuda()
        x = torch.randn(256, 512, device="cuda")
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            model(x)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = model(x)
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                z = model(y)
            torch.cuda.current_stream().wait_stream(side)
        graph.replay()
        pools = {tuple(s["segment_pool_id"]) for s in torch.cuda.memory_snapshot()}
        grown = torch.cuda.memory_reserved() > before
        del y, z, graph
        torch.cuda.empty_cache()
        left = [tuple(s["segment_pool_id"]) for s in torch.cuda.memory_snapshot()]
        print(json.dumps([len(pools), grown, set(left) == {(0, 0)}]))
    """
    assert seen_on(code) == [2, True, True]


def test_what_libraries_compute_goes_into_graphs(seen_on):
    code = """
        import warnings
        warnings.simplefilter("error")  # PyTorch warns of an empty graph.
        x = torch.randn(64, 64, device="cuda")
        linear = torch.nn.Linear(64, 64).cuda()
        convolution = torch.nn.Conv2d(1, 8, 3, bias=False).cuda()
        for compute in (
            lambda: x @ x,
            lambda: torch.bmm(x[None], x[None]),
            lambda: linear(x),
            lambda: convolution(x[None, None]),
        ):
            compute()
            with torch.cuda.graph(torch.cuda.CUDAGraph()):
                compute()
        print(json.dumps(unsupported()))
    """
    assert seen_on(code) == []


def test_events_do_not_delay_the_reuse_of_blocks(seen_on):
    code = """
        side = torch.cuda.Stream()
        x = torch.empty(2**20, device="cuda")
        address = x.data_ptr()
        x.record_stream(side)
        del x
        y = torch.empty(2**20, device="cuda")
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record(), last.record(), last.synchronize()
        print(json.dumps([y.data_ptr() == address, first.elapsed_time(last)]))
    """
    assert seen_on(code) == [True, 1.0]


def test_workers_load_data_into_pinned_memory(seen_on):
    code = """
        from torch.utils.data import DataLoader, TensorDataset
        data = TensorDataset(torch.arange(64.0).reshape(16, 4))
        loader = DataLoader(data, batch_size=4, num_workers=2, pin_memory=True)
        seen = [batch.cuda(non_blocking=True).tolist()[0][0] for batch, in loader]
        print(json.dumps(seen))
    """
    assert seen_on(code) == [0.0, 16.0, 32.0, 48.0]


def test_the_allocator_of_the_driver_counts_its_pool(seen_on):
    code = """
        x = [torch.empty(5 * 2**20, dtype=torch.uint8, device="cuda") for _ in range(8)]
        held = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        used = torch.cuda.mem_get_info()
        x = None
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info()
        print(json.dumps([*held, free[0] - used[0]]))
    """
    variables = {"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"}
    seen = seen_on(code, variables=variables)
    assert seen == [40 * MiB, 64 * MiB, 64 * MiB]


@pytest.mark.slow
def test_a_tensor_is_shared_with_another_process(seen_on, tmp_path):
    (tmp_path / "receiver.py").write_text("""
def receive(queue, answers):
    import torch
    tensor = queue.get()
    free, total = torch.cuda.mem_get_info()
    answers.put([tensor.shape[0], str(tensor.device), total - free])
    del tensor
""")
    code = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import torch.multiprocessing as mp
        from receiver import receive
        if __name__ == "__main__":
            context = mp.get_context("spawn")
            queue, answers = context.Queue(), context.Queue()
            x = torch.zeros(2**20, device="cuda")
            process = context.Process(target=receive, args=(queue, answers))
            process.start()
            queue.put(x)
            seen = answers.get(timeout=60)
            process.join()
            print(json.dumps([*seen, process.exitcode]))
    """
    seen = seen_on(code, context_bytes=100 * MiB)
    assert seen == [2**20, "cuda:0", 100 * MiB, 0]


@pytest.mark.slow
def test_compiled_code_runs_through_triton(run_on):
    pytest.importorskip("triton")
    code = """
        import torch
        def f(x):
            return torch.nn.functional.gelu(x).sum(-1).softmax(0)
        x = torch.randn(64, 512, device="cuda", requires_grad=True)
        torch.compile(f)(x).sum().backward()
        print(x.grad.shape)
    """
    assert run_on("h100-80gb", code) == "torch.Size([64, 512])"
