"""One process as a rank of many: its place, its store, its groups."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from memplan.runner.peers import UNIQUE_ID_BYTES, AnsweringStore  # noqa: E402
from memplan.runner.world import place  # noqa: E402

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("rank", "world_size", "local_rank", "local_size", "node"),
    [
        (0, 2, 0, 2, 0),
        (1, 2, 1, 2, 0),
        (7, 8, 7, 8, 0),
        (8, 64, 0, 8, 1),
        (63, 64, 7, 8, 7),
    ],
)
def test_a_rank_has_the_place_a_launcher_would_give_it(
    rank, world_size, local_rank, local_size, node
):
    told = place(rank, world_size)
    assert told["RANK"] == str(rank)
    assert told["WORLD_SIZE"] == str(world_size)
    assert told["LOCAL_RANK"] == str(local_rank)
    assert told["LOCAL_WORLD_SIZE"] == str(local_size)
    assert told["GROUP_RANK"] == str(node)


def test_the_store_answers_for_peers():
    store = AnsweringStore(8)
    assert len(store.get("what rank 0 would have set")) == UNIQUE_ID_BYTES
    store.set("mine", "value")
    assert store.get("mine") == b"value"
    assert store.add("ranks that came", 1) == 8
    assert store.add("ranks that came", 1) == 16
    store.wait(["anything"])


def test_the_store_signals_nothing_that_nobody_set():
    store = AnsweringStore(8)
    assert not store.check(["exception_dump"])
    store.set("mine", b"")
    assert store.check(["mine"])


def test_the_store_serves_groups_that_are_written_in_cpp():
    store = AnsweringStore(4)
    prefixed = torch.distributed.PrefixStore("group", store)
    prefixed.set("key", "value")
    assert prefixed.get("key") == b"value"
    assert store.get("group/key") == b"value"
    assert prefixed.add("count", 1) == 4


ALONE = """
    import json, os, sys
    from datetime import timedelta
    from memplan.runner import world
    world.install({rank}, {world_size})
    import torch
    import torch.distributed as dist
    dist.init_process_group({backend!r}{options})
    rank, size = dist.get_rank(), dist.get_world_size()
    gloo = dist.new_group(backend="gloo")
    dist.barrier(group=gloo)
    dist.monitored_barrier(group=gloo, timeout=timedelta(seconds=1))
    gathered = [None] * size
    dist.all_gather_object(gathered, {{"rank": rank}}, group=gloo)
    sent = [rank]
    dist.broadcast_object_list(sent, src=0, group=gloo)
    scattered = [None]
    pieces = list(range(size)) if rank == 0 else None
    dist.scatter_object_list(scattered, pieces, src=0, group=gloo)
    some = dist.new_group(list(range(size // 2)), backend="gloo")
    total = torch.ones(2)
    dist.all_reduce(total, group=gloo)
    print(json.dumps({{
        "rank": rank, "size": size, "backend": dist.get_backend(gloo),
        "gathered": gathered[-1], "sent": sent, "scattered": scattered,
        "local": os.environ["LOCAL_RANK"],
    }}))
    dist.destroy_process_group()
"""


def run_alone(rank, world_size, backend="gloo", options=""):
    """What one process sees as that rank."""
    code = ALONE.format(
        rank=rank, world_size=world_size, backend=backend, options=options
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_rank_0_works_alone():
    seen = run_alone(0, 8)
    assert (seen["rank"], seen["size"], seen["backend"]) == (0, 8, "gloo")
    assert seen["gathered"] == {"rank": 0}
    assert seen["sent"] == [0]
    assert seen["scattered"] == [0]


def test_another_rank_works_alone_and_keeps_what_rank_0_would_have_sent():
    seen = run_alone(13, 64)
    assert (seen["rank"], seen["size"], seen["local"]) == (13, 64, "5")
    assert seen["sent"] == [13]
    assert seen["scattered"] == [None]


@pytest.mark.parametrize(
    "options",
    [
        ", init_method='tcp://10.0.0.1:1234', rank=3, world_size=4",
        ", init_method='file:///nowhere/at/all', rank=3, world_size=4",
        ", rank=3, world_size=4",
    ],
)
def test_a_rank_that_the_program_names_itself_counts(options):
    seen = run_alone(0, 8, options=options)
    assert (seen["rank"], seen["size"]) == (3, 4)


LAUNCHED = """
    import json, os
    import torch.distributed as dist
    print(json.dumps([os.environ["RANK"], os.environ["WORLD_SIZE"], os.getpid()]))
"""
STARTER = """
    import os
    from memplan.runner.imports import after_import

    def play():
        from memplan.runner import world
        world.install(5, 64)

    after_import("torch", play)
"""


@pytest.mark.parametrize(
    "launcher",
    [
        ("-m", "torch.distributed.run", "--nproc-per-node", "4"),
        (
            *("-m", "torch.distributed.run", "--nnodes", "8", "--node-rank", "3"),
            *("--rdzv-endpoint", "10.0.0.1:29400", "--nproc-per-node", "8"),
        ),
        ("-c", "from torch.distributed.run import main; main()", "--standalone"),
    ],
    ids=["one machine", "many machines", "torchrun"],
)
def test_a_launcher_starts_one_process_as_the_rank_to_play(tmp_path, launcher):
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(STARTER))
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(LAUNCHED))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *launcher, str(script)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=100,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    assert json.loads(line)[:2] == ["5", "64"]


SPAWNING = """
    import json
    import torch.distributed as dist
    import torch.multiprocessing as mp

    def train(index, world_size):
        address = "tcp://127.0.0.1:29999"
        dist.init_process_group("gloo", address, rank=index, world_size=world_size)
        dist.barrier()
        print(json.dumps([index, dist.get_world_size()]), flush=True)
        dist.destroy_process_group()

    if __name__ == "__main__":
        mp.spawn(train, args=(8,), nprocs=8)
"""


def test_of_spawned_processes_the_one_to_play_is_started(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(STARTER))
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SPAWNING))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=100,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[5, 8]]


# ---- where NCCL needs its peers, as on a real card ----


def test_a_rank_is_played_on_the_first_of_few_cards():
    told = place(13, 64, num_devices=1)
    assert (told["RANK"], told["LOCAL_RANK"], told["LOCAL_WORLD_SIZE"]) == (
        "13",
        "0",
        "8",
    )


MEETING_NOBODY = """
    from memplan.runner import world
    world.install(5, 8, has_nccl=False)
    import torch, warnings
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import (
        fp16_compress_hook,
    )
    from torch.nn.parallel import DistributedDataParallel

    warnings.simplefilter("ignore")
    torch.cuda.set_device(0)
    {init}
    backend = dist.group.WORLD._get_backend(torch.device("cuda"))
    some = dist.new_group([4, 5])
    mesh = dist.init_device_mesh("cuda", (4, 2), mesh_dim_names=("many", "few"))
    tensor = torch.ones(3, device="cuda")
    work = dist.all_reduce(tensor, async_op=True)
    work.wait()
    parts = [torch.empty(3, device="cuda") for _ in range(2)]
    dist.all_gather(parts, tensor, group=some)
    dist.barrier()
    for hook in (None, fp16_compress_hook):
        model = DistributedDataParallel(torch.nn.Linear(4, 4).cuda())
        if hook:
            model.register_comm_hook(None, hook)
        for _ in range(2):
            model(torch.ones(2, 4, device="cuda")).sum().backward()
        assert model.module.weight.grad is not None
    say([
        dist.get_backend(), type(backend).__name__, some.size(), some.rank(),
        mesh["few"].size(), mesh.get_local_rank("many"),
        [list(value.shape) for value in work.get_future().value()],
    ])
    dist.destroy_process_group()
"""


@pytest.mark.parametrize(
    "init",
    [
        "dist.init_process_group('nccl')",
        "dist.init_process_group()",
        "dist.init_process_group('cpu:gloo,cuda:nccl')",
        "dist.init_process_group('nccl', device_id=torch.device('cuda', 0))",
    ],
)
def test_no_group_is_nccls_where_it_would_wait_for_peers(on_card, init):
    backend, kind, size, rank, few, place, shapes = on_card(
        MEETING_NOBODY.format(init=init)
    )
    assert "nccl" in backend or backend == "undefined"
    assert kind == "FakeProcessGroup"
    assert (size, rank, few, place) == (2, 1, 2, 2)
    assert shapes == [[3]]
