"""One process as rank r of W over the virtual NCCL."""

import json

import pytest

from memplan.units import MiB

SETUP = """
import ctypes, json, sys, torch, torch.distributed as dist
from memplan.runner.peers import AnsweringStore
rank, num_ranks = int(sys.argv[1]), int(sys.argv[2])
torch.cuda.set_device(0)
store = AnsweringStore(num_ranks)
dist.init_process_group("nccl", store=store, rank=rank, world_size=num_ranks)

def tensor(*values, dtype=torch.int64):
    return torch.tensor(values, device="cuda", dtype=dtype)

def unsupported():
    text = ctypes.create_string_buffer(4096)
    library = ctypes.CDLL("libcudart.so." + torch.version.cuda.split(".")[0])
    library.vd_unsupported_calls(text, ctypes.c_size_t(4096))
    return text.value.decode()
"""


def play(run_on, code, rank, num_ranks, **options):
    """What the last line says, as JSON."""
    # Else a thread of NCCL's asks the store for errors of others, until after the end.
    variables = {"TORCH_NCCL_DUMP_ON_TIMEOUT": "0"}
    arguments = (SETUP + code, str(rank), str(num_ranks))
    said = run_on("h100-80gb", *arguments, variables=variables, **options)
    return json.loads(said.splitlines()[-1])


COLLECTIVES = """
answers = {"version": list(torch.cuda.nccl.version())[0]}
total = tensor(7, 0)
dist.all_reduce(total)
largest = tensor(7.5, dtype=torch.float32)
dist.all_reduce(largest, op=dist.ReduceOp.MAX)
mean = tensor(7.5, dtype=torch.float32)
dist.all_reduce(mean, op=dist.ReduceOp.AVG)
gathered = [torch.zeros(2, dtype=torch.int64, device="cuda") for _ in range(num_ranks)]
dist.all_gather(gathered, tensor(3, 4))
flat = torch.zeros(num_ranks, dtype=torch.int64, device="cuda")
dist.all_gather_into_tensor(flat, tensor(9))
objects = [None] * num_ranks
dist.all_gather_object(objects, {"shape": [2, 3]})
part = torch.zeros(1, dtype=torch.int64, device="cuda")
dist.reduce_scatter_tensor(part, torch.arange(num_ranks, device="cpu").cuda())
swapped = torch.zeros(num_ranks, dtype=torch.int64, device="cuda")
dist.all_to_all_single(swapped, torch.arange(10, 10 + num_ranks, device="cpu").cuda())
unequal = torch.zeros(2 * num_ranks, dtype=torch.int64, device="cuda")
dist.all_to_all_single(
    unequal,
    torch.arange(2 * num_ranks, device="cpu").cuda(),
    [2] * num_ranks,
    [2] * num_ranks,
)
shared = tensor(5) if rank == 0 else tensor(0)
dist.broadcast(shared, src=0)
ring = torch.zeros(1, dtype=torch.int64, device="cuda")
sent = tensor(8)
for work in dist.batch_isend_irecv([
    dist.P2POp(dist.isend, sent, (rank + 1) % num_ranks),
    dist.P2POp(dist.irecv, ring, (rank - 1) % num_ranks),
]):
    work.wait()
dist.barrier()
answers |= {
    "sum": total.tolist(), "max": largest.item(), "mean": mean.item(),
    "gathered": [t.tolist() for t in gathered], "flat": flat.tolist(),
    "objects": objects, "part": part.item(), "swapped": swapped.tolist(),
    "unequal": unequal.tolist(), "shared": shared.item(), "ring": ring.item(),
    "unsupported": unsupported(),
}
dist.destroy_process_group()
print(json.dumps(answers))
"""


@pytest.mark.parametrize(("rank", "num_ranks"), [(0, 4), (3, 4), (63, 64)])
def test_every_rank_holds_what_this_one_holds(run_on, rank, num_ranks):
    answers = play(run_on, COLLECTIVES, rank, num_ranks)
    assert answers.pop("version") == 2
    assert answers.pop("shared") == (5 if rank == 0 else 0)
    assert answers == {
        "sum": [7 * num_ranks, 0],
        "max": 7.5,
        "mean": 7.5,
        "gathered": [[3, 4]] * num_ranks,
        "flat": [9] * num_ranks,
        "objects": [{"shape": [2, 3]}] * num_ranks,
        "part": rank * num_ranks,
        "swapped": [10 + rank] * num_ranks,
        "unequal": [2 * rank, 2 * rank + 1] * num_ranks,
        "ring": 8,
        "unsupported": "",
    }


CHARGES = """
def outside():
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()

steps = [outside()]
one = torch.zeros(1, device="cuda")
dist.all_reduce(one)
steps.append(outside())
group = dist.new_group([0, 1])
dist.all_reduce(one, group=group)
steps.append(outside())
dist.destroy_process_group()
steps.append(outside())
print(json.dumps(steps))
"""


def test_each_communicator_is_charged(run_on):
    options = {"context_bytes": 500 * MiB, "nccl_bytes": 300 * MiB}
    steps = play(run_on, CHARGES, 0, 4, **options)
    assert steps == [500 * MiB, 800 * MiB, 1100 * MiB, 500 * MiB]


SPLIT = """
dist.destroy_process_group()
device = torch.device("cuda:0")
options = dict(store=store, rank=rank, world_size=num_ranks, device_id=device)
dist.init_process_group("nccl", **options)
ranks = [1, 3, 5]
group = dist.new_group(ranks)
gathered = [torch.zeros(1, dtype=torch.int64, device="cuda") for _ in ranks]
dist.all_gather(gathered, tensor(2), group=group)
answers = [dist.get_rank(group), [t.item() for t in gathered], unsupported()]
dist.destroy_process_group()
print(json.dumps(answers))
"""


def test_a_split_group_says_what_it_does_not_know(run_on):
    group_rank, gathered, unsupported = play(run_on, SPLIT, 3, 8)
    assert group_rank == 1
    assert gathered == [2, 2, 0]
    assert "ncclCommSplit (how many ranks the new group has) 1" in unsupported
