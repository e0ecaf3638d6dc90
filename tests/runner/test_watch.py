"""A watch comes late, leaves no trace, and its figures close; on a virtual card."""

import pytest

from memplan.units import MiB

pytestmark = pytest.mark.slow

MODEL = """
    import torch
    from torch import nn
    from pathlib import Path

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(999, 2000), nn.ReLU(), nn.Linear(2000, 7)).cuda()
    optimizer = torch.optim.AdamW(model.parameters())

    def step():
        loss = model(torch.randn(321, 999, device="cuda")).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
"""
WATCH = """
    from memplan.runner.settings import Settings
    from memplan.runner.watch import Watch

    def new_watch(steps=3, **more):
        return Watch(Settings(folder=Path("."), steps=steps), **more)
"""
STATE = """
    import sys
    from torch.optim import optimizer as optimizers

    OWNERS = {
        "torch.nn.Module": torch.nn.Module,
        "torch.nn.functional": torch.nn.functional,
        "torch.autograd": torch.autograd,
        "torch.autograd.graph": torch.autograd.graph,
        "torch.cuda.CUDAGraph": torch.cuda.CUDAGraph,
        "torch.optim.Optimizer": torch.optim.Optimizer,
        "torch._C": torch._C,
        "torch.cuda": torch.cuda,
        "torch.cuda.memory": torch.cuda.memory,
        "torch.utils.data.dataloader": torch.utils.data.dataloader,
        "loader": torch.utils.data.dataloader._BaseDataLoaderIter,
    }

    def state():
        '''Every attribute that a runner may replace, and every hook.'''
        seen = {
            f"{owner}.{name}": id(thing)
            for owner, where in OWNERS.items()
            for name, thing in vars(where).items()
            if callable(thing)
        }
        seen["pre"] = list(optimizers._global_optimizer_pre_hooks)
        seen["post"] = list(optimizers._global_optimizer_post_hooks)
        for name in ("torch._dynamo.utils", "torch._dynamo.variables.nn_module"):
            if name in sys.modules:
                plain = sys.modules[name].unpatched_nn_module_call
                seen[name] = plain is torch.nn.Module.__call__
        if torch.cuda.is_initialized():  # else there is no allocator to ask
            seen["recording"] = torch._C._cuda_isHistoryEnabled()
        return seen

    def changed(before, now):
        return sorted(k for k in {*before, *now} if before.get(k) != now.get(k))
"""


def test_a_watch_that_comes_late_leaves_torch_as_it_was(on_card):
    said = on_card(
        MODEL,
        WATCH,
        STATE,
        """
        step(), step()
        before = state()
        watch = new_watch()
        watch.attach()
        during = changed(before, state())
        step(), step(), step()
        watch.detach()
        torch.cuda.reset_peak_memory_stats()
        say({"during": during, "after": changed(before, state())})
        """,
    )
    assert "torch.nn.Module.__call__" in said["during"]
    assert "torch._C._cuda_memoryStats" in said["during"]
    assert {"pre", "post", "recording"} <= set(said["during"])
    assert said["after"] == []


def test_the_programs_own_peak_is_told_until_it_begins_it_anew(on_card):
    said = on_card(
        MODEL,
        WATCH,
        """
        high = torch.empty(200 << 20, device="cuda")
        del high
        step()
        before = torch.cuda.max_memory_allocated()
        watch = new_watch()
        watch.attach()
        step(), step(), step()
        watch.detach()
        told = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        anew = torch.cuda.max_memory_allocated()
        ours = "memplan" in repr(torch._C._cuda_memoryStats)
        say([before, told, anew, ours])
        """,
    )
    before, told, anew, is_ours = said
    assert told == before
    assert anew < before
    assert not is_ours


def test_what_was_built_before_is_known_by_who_holds_it(on_card):
    content = on_card(
        MODEL,
        WATCH,
        """
        step(), step()
        watch = new_watch()
        watch.attach()
        step(), step(), step()
        watch.detach()
        say(watch.content("finished"))
        """,
    )
    components = content["components"]
    assert sum(components.values()) == content["peak"]["requested_bytes"]
    assert components["unattributed"] == 0
    parameters = 999 * 2000 + 2000 + 2000 * 7 + 7
    assert components["weights"] == 4 * parameters
    assert components["optimizer_states"] == 8 * parameters
    assert [step["step"] for step in content["steps"]] == [1, 2, 3]
    assert content["assumptions"] == []


def test_every_block_and_every_moment_of_the_steady_step_is_told(on_card):
    content = on_card(
        MODEL,
        WATCH,
        """
        watch = new_watch()
        watch.attach()
        step(), step(), step()
        watch.detach()
        say(watch.content("finished"))
        """,
    )
    peak, blocks, curve = content["peak"], content["blocks"], content["curve"]
    assert sum(block["bytes"] for block in blocks) == peak["requested_bytes"]
    for component, num_bytes in content["components"].items():
        mine = [block for block in blocks if block["component"] == component]
        assert sum(block["bytes"] for block in mine) == num_bytes
    [weight] = [block for block in blocks if block["name"] == "weight exp_avg"][:1]
    assert (weight["module"], weight["bytes"], weight["count"]) == ("0", 7992000, 1)
    assert max(curve["requested_bytes"]) == peak["requested_bytes"]
    assert curve["times_us"] is None
    phases = [phase["phase"] for phase in curve["phases"]]
    assert phases == ["forward", "loss", "backward", "optimizer"]
    assert peak["active_bytes"] >= peak["allocated_bytes"]
    assert content["is_virtual"] is True
    assert content["outside"]["others_bytes"] == 0
    assert content["outside"]["at_start_bytes"] == 500 * MiB
    assert content["host"]["peak_resident_bytes"] > 50 * MiB


def test_a_content_asked_for_on_the_way_changes_nothing(on_card):
    code = """
        watch = new_watch()
        watch.attach()
        for number in range(4):
            step()
            if {asks}:
                watch.content("finished")
        watch.detach()
        say(watch.content("finished"))
    """
    plain = on_card(MODEL, WATCH, code.format(asks=False))
    asked = on_card(MODEL, WATCH, code.format(asks=True))
    del plain["host"], asked["host"]
    assert asked == plain


def test_after_it_a_step_allocates_as_without_it(on_card):
    code = """
        def figures():
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_stats()
            step()
            stats = torch.cuda.memory_stats()
            names = ("allocated_bytes.all.peak", "reserved_bytes.all.peak",
                     "requested_bytes.all.peak")
            made = "allocation.all.allocated"
            return [stats[name] for name in names] + [stats[made] - before[made]]

        step(), step()
        if {watches}:
            watch = new_watch()
            watch.attach()
            step(), step(), step()
            watch.detach()
        say(figures())
    """
    without = on_card(MODEL, WATCH, code.format(watches=False))
    assert on_card(MODEL, WATCH, code.format(watches=True)) == without


def test_one_watch_may_follow_another(on_card):
    first, second = on_card(
        MODEL,
        WATCH,
        """
        contents = []
        for _ in range(2):
            watch = new_watch()
            watch.attach()
            step(), step(), step()
            watch.detach()
            contents.append(watch.content("finished"))
        say(contents)
        """,
    )
    assert first["components"] == second["components"]
    assert first["holders"] == second["holders"]
    assert first["peak"] == second["peak"]


def test_a_wrapper_that_the_program_kept_passes_straight_on(on_card):
    said = on_card(
        MODEL,
        WATCH,
        """
        watch = new_watch()
        watch.attach()
        from torch.nn.functional import mse_loss
        call, run = torch.nn.Module.__call__, torch.autograd._engine_run_backward
        step()
        watch.detach()
        seen = watch.content("finished")
        output = call(model, torch.randn(321, 999, device="cuda"))
        mse_loss(output, torch.zeros_like(output)).backward()
        optimizer.step()
        from memplan.runner.tags import NUMBERS
        first = next(NUMBERS)
        loss = model(torch.randn(321, 999, device="cuda")).sum()
        run((loss,), (torch.ones_like(loss),), False, False, (), True, True)
        say([len(seen["steps"]), len(watch.content("finished")["steps"]),
             next(NUMBERS) - first])
        """,
    )
    assert said == [1, 1, 1]


def test_a_compiled_region_becomes_the_plain_one_again(on_card):
    code = """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = nn.Linear(64, 64)

            def forward(self, batch):
                return nn.functional.mse_loss(self.inner(batch), batch)

        watch = new_watch()
        if {watches}:
            watch.attach()
        compiled = torch.compile(Model().cuda(), backend="aot_eager")
        batch = torch.randn(8, 64, device="cuda")
        compiled(batch).backward()
        watch.detach()
        from torch._dynamo.utils import counters
        before = counters["stats"]["calls_captured"]
        if {watches}:
            compiled(batch).backward()
        say(counters["stats"]["calls_captured"] - before if {watches} else before)
    """
    plain = on_card(MODEL, WATCH, code.format(watches=False))
    assert on_card(MODEL, WATCH, code.format(watches=True)) == plain


def test_buckets_of_ddp_are_known_by_their_sizes(on_card):
    content = on_card(
        MODEL,
        WATCH,
        """
        import os
        import torch.distributed as dist
        from memplan.runner import collectives

        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
        dist.init_process_group(
            "nccl", store=dist.HashStore(), rank=0, world_size=1
        )
        collectives.install()
        alone, model = model, nn.parallel.DistributedDataParallel(model)
        step(), step(), step()
        watch = new_watch()
        watch.attach()
        step(), step(), step()
        watch.detach()
        say(watch.content("finished"))
        dist.destroy_process_group()
        """,
    )
    assert sum(content["components"].values()) == content["peak"]["requested_bytes"]
    assert content["components"]["unattributed"] == 0
    buckets = [b for b in content["blocks"] if b["name"] == "buffer of sharding"]
    assert sum(b["bytes"] for b in buckets) == content["components"]["gradients"]


def test_a_watch_that_left_before_cuda_came_up_does_nothing_then(on_card):
    said = on_card(
        "import torch\nfrom pathlib import Path",
        STATE,
        WATCH,
        """
        before = state()
        watch = new_watch()
        watch.attach()
        watch.detach()
        after = changed(before, state())
        torch.empty(1, device="cuda")
        recording = torch._C._cuda_isHistoryEnabled()
        say([watch.content("finished")["device"], after, recording])
        """,
    )
    assert said == [None, [], False]
