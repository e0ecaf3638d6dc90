"""One process as rank r of W: its peers are not there, and nobody waits for them.

    launcher    torchrun, accelerate and mp.spawn start one process on one machine
    place       RANK, WORLD_SIZE and the rest say what they would say to that rank
    meeting     init_process_group meets at a store that answers for every peer
    gloo        which needs its peers, gives way to PyTorch's fake process group
    nccl        is the real one over a virtual card's NCCL; on a real card, as gloo
    objects     an object that another rank would send is what this rank has itself

The rest of the program, DDP, FSDP, DTensor, DeepSpeed, is not touched.
"""

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any
from urllib.parse import parse_qs, urlparse

import torch.distributed as dist

from memplan.runner import results
from memplan.runner.imports import after_import
from memplan.runner.peers import AnsweringStore, without_peers
from memplan.runner.settings import DEVICES_OF_A_NODE

SCHEMES = ("env", "tcp", "file")
"""Of `init_method`; a program waits for its peers in each of them."""
GLOO = ("ProcessGroupGloo",)
NCCL = ("ProcessGroupNCCL", "ProcessGroupNCCL2", "ProcessGroupNCCLLazy")
"""As PyTorch's own functions that make process groups look them up."""
LAUNCHER = "torch.distributed.launcher.api"
"""Behind torchrun, accelerate launch and Python's -m torch.distributed.run."""

DEEPSPEED = "deepspeed.runtime.zero.utils"
"""Where stage 3 holds a rank's lists against those of rank 0."""


def place(
    rank: int, world_size: int, num_devices: int = DEVICES_OF_A_NODE
) -> dict[str, str]:
    """What a launcher tells a rank of itself; it is on one of so many cards."""
    node_size = min(DEVICES_OF_A_NODE, world_size)
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(rank % min(node_size, num_devices)),
        "LOCAL_WORLD_SIZE": str(node_size),
        "GROUP_RANK": str(rank // node_size),
        "GROUP_WORLD_SIZE": str(-(-world_size // node_size)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
    }


def install(rank: int, world_size: int, *, has_nccl: bool = True) -> Callable[[], bool]:
    """Let this process be that rank, from the import of PyTorch on.

    What is given back tells whether it has met its peers since. `has_nccl` where NCCL
    can do without them.
    """
    os.environ.update(place(rank, world_size, DEVICES_OF_A_NODE if has_nccl else 1))
    # Else a thread of NCCL's asks the store, a Python object, for other ranks' errors,
    # until after Python's end.
    os.environ["TORCH_NCCL_DUMP_ON_TIMEOUT"] = "0"
    after_import(LAUNCHER, _start_one_process)
    if rank > 0:
        after_import(DEEPSPEED, _agree_with_rank_0)
    _spawn_one_process(rank)
    if not dist.is_available():
        return lambda: False
    store = AnsweringStore(world_size)
    _meet_nobody(rank, world_size, store)
    _need_no_peers(GLOO if has_nccl else (*GLOO, *NCCL))
    if not has_nccl:
        results.install()
    return lambda: dist.is_initialized() or store.num_keys() > 0


def _start_one_process() -> None:
    """Whatever a launcher is told, it starts this one rank, here."""
    launcher: Any = import_module(LAUNCHER)
    launch_agent = launcher.launch_agent

    @functools.wraps(launch_agent)
    def launch_one(config: Any, *args: Any, **kwargs: Any) -> Any:
        config.min_nodes = config.max_nodes = config.nproc_per_node = 1
        # As --standalone: a meeting point of its own, wherever the others would meet.
        config.rdzv_backend, config.rdzv_endpoint = "c10d", "localhost:0"
        config.rdzv_configs = {"timeout": config.rdzv_configs["timeout"]}
        return launch_agent(config, *args, **kwargs)

    launcher.launch_agent = launch_one


def _spawn_one_process(rank: int) -> None:
    """torch.multiprocessing.spawn starts the one of its processes that is this rank."""
    spawning: Any = import_module("torch.multiprocessing.spawn")
    start = spawning.start_processes

    @functools.wraps(start)
    def start_one(
        fn: Callable[..., Any], args: Any = (), nprocs: int = 1, *more: Any, **kw: Any
    ) -> Any:
        if nprocs > 1:
            fn, nprocs = functools.partial(_call_as, fn, rank % nprocs), 1
        return start(fn, args, nprocs, *more, **kw)

    spawning.start_processes = start_one
    exporting: Any = import_module("torch.multiprocessing")
    exporting.start_processes = start_one


def _call_as(fn: Callable[..., Any], index: int, _: int, *args: Any) -> Any:
    """The function of a spawned process, as the process with that index."""
    return fn(index, *args)


def _agree_with_rank_0() -> None:
    """What rank 0 would broadcast to be compared is what this rank has."""
    lists: Any = import_module(DEEPSPEED)
    lists.get_lst_from_rank0 = list
    lists.assert_lst_len_same_as_other_ranks = lambda _: None


def _meet_nobody(rank: int, world_size: int, store: AnsweringStore) -> None:
    """init_process_group finds this store, wherever it was going to look for one."""

    def rendezvous(url: str, **_: Any) -> Iterator[tuple[AnsweringStore, int, int]]:
        """A rank and a world size that the program names by itself count."""
        named = parse_qs(urlparse(url).query)
        yield (
            store,
            int(named.get("rank", [rank])[0]),
            int(named.get("world_size", [world_size])[0]),
        )

    handlers = import_module("torch.distributed.rendezvous")._rendezvous_handlers
    handlers.update(dict.fromkeys(SCHEMES, rendezvous))


def _need_no_peers(groups: tuple[str, ...]) -> None:
    """Replace what cannot work alone, under each name it is known by."""
    c10d: Any = dist.distributed_c10d
    for name in groups:
        if hasattr(c10d, name):
            setattr(c10d, name, without_peers(getattr(c10d, name)))
    if NCCL[0] in groups:
        # A fake group is not made by splitting one of NCCL's.
        c10d._get_split_source = lambda _: None
    replaced: dict[str, Callable[[Any], Any]] = {
        "broadcast_object_list": _only_as_source,
        "scatter_object_list": _only_as_source,
        "monitored_barrier": _nothing_to_wait_for,
    }
    for name, replacement in replaced.items():
        alone = replacement(getattr(c10d, name))
        for module in (c10d, dist):
            setattr(module, name, alone)


def _only_as_source(original: Callable[..., None]) -> Callable[..., None]:
    """An object comes from this rank itself, or stays what it is."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def from_source(*args: Any, **kwargs: Any) -> None:
        given = signature.bind(*args, **kwargs).arguments
        group = given.get("group") or dist.group.WORLD
        if given.get("group_src") is not None:
            is_source = dist.get_rank(group) == given["group_src"]
        else:
            is_source = dist.get_rank() == (given.get("src") or 0)
        if is_source:
            original(*args, **kwargs)

    return from_source


def _nothing_to_wait_for(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def barrier(*args: Any, **kwargs: Any) -> None:
        """Every peer is as far as this rank is."""

    return barrier
