"""Programs as users write them rehearse unchanged; see programs/ for each.

Every program runs once, by the command beside its name, and the tests look at its
report; a few run again, to be the same.
"""

import functools
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from memplan.errors import VirtualDeviceError
from memplan.hardware import find_gpu
from memplan.units import MiB
from memplan.virtual import virtual_environment
from memplan.virtual.compiler import find_compiler
from memplan.virtual.wheels import find_torch

PROGRAMS = Path(__file__).parent / "programs"

COMMANDS = {
    "plain loop": "-- python plain_loop.py --batch-size 4",
    "trainer": "-- python trainer.py",
    "trainer fp16": "-- python trainer.py --fp16 --optim adamw_torch",
    "accelerate": "-- accelerate launch accelerate_script.py",
    "two ranks": "-- torchrun --nproc-per-node 2 torchrun_two_ranks.py",
    "ddp": "--num-gpus 8 -- torchrun torchrun_two_ranks.py",
    "zero 1": "--num-gpus 8 -- torchrun zero_redundancy.py",
    "fsdp2": "--num-gpus 64 -- torchrun fsdp2.py",
    "fsdp2 kept": "--num-gpus 64 -- torchrun fsdp2.py --keep-unsharded",
    "hybrid": "--num-gpus 16 -- torchrun hybrid_shard.py",
    "tensor parallel": "--num-gpus 4 -- torchrun tensor_parallel.py",
    "deepspeed 1": "--num-gpus 8 -- torchrun deepspeed_script.py --stage 1",
    "deepspeed 2": "--num-gpus 8 -- torchrun deepspeed_script.py --stage 2",
    "deepspeed 3": "--num-gpus 8 -- torchrun deepspeed_script.py --stage 3",
    "offload": "--num-gpus 8 -- torchrun deepspeed_script.py --stage 3 --offload",
    "nf4": "-- python lora_nf4.py",
    "resnet": "-- python vision.py --model resnet50",
    "vit": "-- python vision.py --model vit",
    "detection": "-- python detection.py",
    "compiled": "-- python compiled.py",
    "cuda graph": "-- python cuda_graph.py",
    "evaluates": "-- python evaluates.py",
    "workers": "-- python forks_workers.py",
    "catches": "--gpu-memory 24GiB -- python catches_oom.py",
    "gan": "-- python two_optimizers.py",
    "teacher": "-- python ema_teacher.py",
    "flamingo": "--gpu h100-80gb -- python multimodal_recipe.py openflamingo-3b",
    "mmicl": "--gpu h100-80gb -- python multimodal_recipe.py mmicl-flan-t5-xl",
    "pe-net": "--gpu h100-80gb -- python multimodal_recipe.py pe-net-vg150",
}
NEEDS = {
    "trainer": "transformers",
    "trainer fp16": "transformers",
    "accelerate": "accelerate",
    "catches": "accelerate",
    "nf4": "bitsandbytes",
    "resnet": "torchvision",
    "vit": "timm",
    "detection": "torchvision",
    "flamingo": "transformers",
    "mmicl": "transformers",
    "pe-net": "h5py",
    **dict.fromkeys(("deepspeed 1", "deepspeed 2", "deepspeed 3"), "deepspeed"),
    "offload": "deepspeed",
}
UNSUPPORTED = {
    "detection": {"aten::nonzero"},
    "mmicl": {"aten::masked_select"},  # the backward pass of masked_scatter
    # DeepSpeed splits a group for itself: how many ranks are in it only they know.
    "deepspeed 1": {"ncclCommSplit"},
    "deepspeed 2": {"ncclCommSplit"},
    "deepspeed 3": {"ncclCommSplit"},
    "offload": {"ncclCommSplit"},
}


@dataclass(frozen=True)
class Done:
    """A rehearsal that has ended."""

    exit_code: int
    stdout: str
    stderr: str
    orphans: list[str]

    @property
    def report(self):
        assert self.exit_code == 0, self.stderr
        return json.loads(self.stdout)


def run(verb, command, variables=(), folder=PROGRAMS):
    """`memplan VERB --json` of a command, which names a program of this folder."""
    mark = f"MEMPLAN_TEST_RUN={os.getpid()} {command}"
    name, value = mark.split("=", 1)
    own_tools = Path(sys.executable).parent
    environment = {**os.environ, **dict(variables), name: value, "HF_HUB_OFFLINE": "1"}
    environment["PATH"] = os.pathsep.join([str(own_tools), environment["PATH"]])
    done = subprocess.run(
        [sys.executable, "-m", "memplan", verb, "--json", *shlex.split(command)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return Done(done.returncode, done.stdout, done.stderr, processes_with(mark))


run_once = functools.cache(functools.partial(run, "rehearse"))


def processes_with(mark):
    """Command lines of processes that have this in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                words = (process / "cmdline").read_bytes().split(b"\0")
                found.append(b" ".join(words).decode())
        except OSError:
            continue  # it has ended meanwhile, or is another user's
    return found


@pytest.fixture(scope="module")
def rehearse():
    """Runs a command once; skips where there is no CUDA build of torch."""
    try:
        find_compiler()
        find_torch()
    except VirtualDeviceError as error:
        pytest.skip(error.message)
    return run_once


@pytest.fixture
def report_of(rehearse):
    """The report of one of COMMANDS by its name."""

    def report(name):
        if name in NEEDS:
            pytest.importorskip(NEEDS[name])
        return rehearse(COMMANDS[name]).report

    return report


def phases_of(report, step):
    """Names of the phases of one step, in order."""
    return [phase["phase"] for phase in report["phases"] if phase["step"] == step]


# ---- what holds for every program ----


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
class TestEveryProgram:
    def test_three_steps_with_all_their_phases(self, report_of, name):
        report = report_of(name)
        assert report["source"] == "rehearsed"
        assert {phase["step"] for phase in report["phases"]} >= {1, 2, 3}
        for step in (1, 2, 3):
            assert {"forward", "backward", "optimizer"} <= set(phases_of(report, step))

    def test_bytes_of_different_kinds_are_in_their_order(self, report_of, name):
        report = report_of(name)
        peak = report["peak"]
        assert 0 < peak["requested_bytes"] <= peak["allocated_bytes"]
        assert peak["allocated_bytes"] <= peak["reserved_bytes"] < peak["device_bytes"]
        assert peak["step"] == report["phases"][-1]["step"]
        assert sum(report["components"].values()) == peak["allocated_bytes"]

    def test_every_byte_at_the_peak_has_an_owner(self, report_of, name):
        report = report_of(name)
        allocated = report["peak"]["allocated_bytes"]
        assert report["unattributed_bytes"] <= allocated // 100

    def test_holders_are_named_and_ordered(self, report_of, name):
        holders = report_of(name)["holders"]
        assert 0 < len(holders) <= 20
        sizes = [holder["bytes"] for holder in holders]
        assert sizes == sorted(sizes, reverse=True)
        assert all(holder["line"] or holder["name"] for holder in holders)

    def test_only_what_is_known_to_be_is_unsupported(self, report_of, name):
        texts = report_of(name)["unsupported"]
        found = {text.split(" ")[0].removesuffix(":") for text in texts}
        assert found == UNSUPPORTED.get(name, set())

    def test_nothing_survives(self, report_of, rehearse, name):
        report_of(name)
        assert rehearse(COMMANDS[name]).orphans == []


# ---- one process ----


@pytest.mark.slow
class TestOneProcess:
    def test_a_plain_loop_has_its_model_and_its_lines(self, report_of):
        report = report_of("plain loop")
        V, L, D, N = 8000, 256, 256, 4
        block = 2 * 2 * D + (3 + 1 + 4 + 4) * D * D + (3 + 1 + 4 + 1) * D
        parameters = 2 * V * D + L * D + N * block + 2 * D
        assert report["model"]["name"] == "Decoder"
        assert report["model"]["parameters"] == parameters
        assert report["components"]["weights"] >= 4 * parameters
        assert any("plain_loop.py" in holder["line"] for holder in report["holders"])

    def test_holders_are_those_of_the_module_that_made_them(self, report_of):
        """And not of the one inside it that was called next, or that called it."""
        holders = report_of("plain loop")["holders"]
        attention = [h for h in holders if "ScaledDotProduct" in h["name"]]
        assert {holder["module"] for holder in attention} <= {"blocks.*"}
        made = [h for h in holders if h["name"] == "output"]
        # Attention saves three parts of one block.
        assert [(h["module"], h["shape"], h["count"]) for h in made] == [
            ("head", [4, 256, 8000], 1),
            ("blocks.*.qkv", [4, 256, 768], 4),
        ]

    def test_what_the_program_prints_goes_to_stderr(self, report_of, rehearse):
        report_of("plain loop")
        assert "epoch 0 step 0 loss" in rehearse(COMMANDS["plain loop"]).stderr

    def test_accumulated_passes_belong_to_one_step(self, report_of):
        phases = phases_of(report_of("accelerate"), 3)
        assert phases.count("forward") == phases.count("backward") == 4
        assert phases.count("optimizer") == 1

    def test_optimizers_that_take_turns_make_one_step(self, report_of):
        assert phases_of(report_of("gan"), 3).count("optimizer") == 2

    def test_a_caught_error_is_told_and_the_batch_that_fits_is_reported(
        self, report_of
    ):
        report = report_of("catches")
        assert any("ran out of memory" in line for line in report["assumptions"])
        assert report["peak"]["device_bytes"] < 24 * 2**30

    def test_operators_whose_output_depends_on_values_are_named(self, report_of):
        unsupported = " ".join(report_of("detection")["unsupported"])
        assert "aten::nonzero" in unsupported

    def test_the_copy_that_an_average_keeps_is_no_weight(self, report_of):
        report = report_of("teacher")
        copy = 4 * report["model"]["parameters"]
        assert report["components"]["functionality_specific"] >= copy

    def test_adapters_alone_are_trained(self, report_of):
        report = report_of("nf4")
        D, F, N, R = 512, 1376, 4, 16
        adapters = N * R * (4 * (D + D) + 3 * (D + F))
        assert report["model"]["trainable_parameters"] == adapters
        assert report["components"]["optimizer_states"] == 2 * 4 * adapters

    def test_an_evaluation_between_steps_is_told_apart(self, report_of):
        report = report_of("evaluates")
        (evaluation, *_) = report["marked"]
        assert evaluation["name"] == "evaluation"
        assert evaluation["peak_allocated_bytes"] > report["peak"]["allocated_bytes"]

    def test_the_recipe_of_flamingo_takes_a_batch_of_each_dataset(self, report_of):
        phases = phases_of(report_of("flamingo"), 3)
        assert phases.count("backward") == 2
        assert phases.count("optimizer") == 1
        trained = 1_046_992_944
        assert report_of("flamingo")["model"]["trainable_parameters"] == trained

    def test_the_recipe_of_mmicl_trains_queries_and_values(self, report_of):
        report = report_of("mmicl")
        trained = 404_228_096
        assert report["model"]["trainable_parameters"] == trained
        assert report["components"]["optimizer_states"] == 2 * 2 * trained

    def test_the_recipe_of_pe_net_trains_the_relation_head(self, report_of):
        report = report_of("pe-net")
        assert report["model"]["parameters"] == 411_174_795
        assert report["model"]["trainable_parameters"] == 249_436_868


# ---- one rank of many ----


@pytest.mark.slow
class TestRanks:
    def test_torchrun_starts_its_ranks(self, report_of):
        report = report_of("two ranks")
        assert report["num_gpus"] == 2
        assert [row["rank"] for row in report["ranks"]] == [0, 1]

    def test_data_parallel_ranks_hold_all_of_it(self, report_of):
        report = report_of("ddp")
        parameters = report["model"]["parameters"]
        assert report["num_gpus"] == 8
        assert report["components"]["weights"] == 4 * parameters
        assert report["components"]["optimizer_states"] == 2 * 4 * parameters

    def test_zero_1_shares_the_states(self, report_of):
        report = report_of("zero 1")
        a_layer = 1024 * 1024 + 1024  # eight layers, eight ranks
        assert report["components"]["optimizer_states"] == 2 * 4 * a_layer

    def test_fsdp2_shares_everything(self, report_of):
        report = report_of("fsdp2")
        V, D, F, N, W = 8000, 512, 1376, 4, 64
        gate_or_up = -(-F // W) * D  # rows do not divide evenly: rank 0 has one more
        block = (3 * D * D + D * D + D * F) // W + 2 * gate_or_up + 2 * D // W
        shard = 2 * V * D // W + N * block + D // W
        assert report["num_gpus"] == W
        assert report["components"]["optimizer_states"] == 2 * 4 * shard

    def test_fsdp2_holds_more_without_resharding(self, report_of):
        kept, resharded = report_of("fsdp2 kept"), report_of("fsdp2")
        more = kept["peak"]["requested_bytes"] - resharded["peak"]["requested_bytes"]
        assert more > 0

    def test_hybrid_sharding_shares_within_a_node(self, report_of):
        report = report_of("hybrid")
        states = 2 * 4 * report["model"]["parameters"] // 8
        steps = 4 * 6 * 12  # fused: counted on the card, of 12 tensors in a layer
        assert report["components"]["optimizer_states"] == states + steps

    def test_tensor_parallelism_shares_the_matrices(self, report_of):
        report = report_of("tensor parallel")
        D, F, W, N = 1024, 4096, 4, 6
        block = 2 * D + 2 * D * F // W + F // W + D
        assert report["components"]["optimizer_states"] == 2 * 4 * N * block

    @pytest.mark.parametrize("stage", [1, 2, 3])
    def test_deepspeed_shares_masters_and_states(self, report_of, stage):
        report = report_of(f"deepspeed {stage}")
        parameters = 8 * (1024 * 1024 + 1024)
        assert report["components"]["optimizer_states"] == 12 * parameters // 8

    def test_offloaded_states_are_not_on_the_card(self, report_of):
        assert report_of("offload")["components"]["optimizer_states"] == 0


# ---- the same run in other ways ----

REPEATED = (
    "plain loop",  # autocast frees its copies in the order of host addresses
    "resnet",  # workspaces of convolutions; a scaler reads back what it found
    "fsdp2",  # a launcher starts another process; NCCL's threads and streams
    "two ranks",  # they meet over TCP; the report is of one of them
    "workers",  # batches come from other processes, through a thread that pins them
    "compiled",  # kernels are tried out where no cache has them
)


@pytest.mark.slow
@pytest.mark.parametrize("name", REPEATED)
def test_the_same_run_gives_the_same_report(report_of, name):
    """To the byte: what is reserved depends on addresses, too.

    Where the user's shell put things differs between the two.
    """
    first = report_of(name)
    longer = {"A_LONGER_ENVIRONMENT": "x" * 4321}
    second = run("rehearse", COMMANDS[name], longer).report
    assert first["peak"] == second["peak"]
    assert first["phases"] == second["phases"]
    assert first["holders"] == second["holders"]
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "zero 1", "fsdp2", "deepspeed 2"])
def test_a_rank_without_nccl_takes_what_it_takes_with_a_virtual_one(
    report_of, name, tmp_path
):
    """`profile --ranks` has PyTorch's fake groups, `rehearse --num-gpus` NCCL's."""
    rehearsed = report_of(name)
    card = virtual_environment(None, find_gpu("h100-80gb"), context_bytes=500 * MiB)
    flags, program = COMMANDS[name].split(" -- torchrun ")
    flags = flags.replace("--num-gpus", "--timed-steps 0 --ranks")
    words = f"{flags} -- python {shlex.quote(str(PROGRAMS))}/{program}"
    # Where it leaves its capture.
    seen = run("profile", words, card.variables, folder=tmp_path).report
    for kind in ("requested_bytes", "allocated_bytes", "reserved_bytes"):
        assert seen["peak"][kind] == rehearsed["peak"][kind]
    assert seen["components"] == rehearsed["components"]


# ---- programs that do not come to their end ----


@pytest.mark.slow
class TestFaults:
    def test_a_crash_keeps_its_error_and_exit_code(self, rehearse):
        done = rehearse("-- python crashing.py")
        assert done.exit_code == 1
        assert "ValueError: Expected input batch_size (16)" in done.stderr
        assert "error: python left with exit code 1" in done.stderr
        assert done.stdout == ""
        assert done.orphans == []

    def test_a_program_without_a_step_is_told_so(self, rehearse):
        done = rehearse("-- python never_steps.py")
        assert "no optimizer step" in done.stdout + done.stderr

    def test_out_of_memory_is_a_result(self, rehearse):
        done = rehearse("-- python out_of_memory.py")
        assert done.exit_code == 1
        report = json.loads(done.stdout)
        error = report["out_of_memory"]
        assert (error["step"], error["phase"]) == (1, "optimizer")
        assert "out_of_memory.py" in error["line"]
        assert error["asked_bytes"] == 2**30
        assert error["needed_bytes"] > report["device"]["total_bytes"]
        assert error["remedies"]
        assert not report["fits"]
