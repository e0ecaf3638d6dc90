"""`memplan.record()` in a loop: on a virtual card, and where there is none."""

import logging
import sys
import textwrap

import pytest
import torch
from captures import capture

import memplan
from memplan import MemplanError, rehearse_program
from memplan.captures.capture_file import read_capture
from memplan.errors import CaptureFileError, PlanError
from memplan.hardware import find_gpu
from memplan.recording import NO_DEVICE, record
from memplan.report import Components
from memplan.running.card_at_hand import CardAtHand

LOOP = """
    import logging, threading
    import memplan, torch
    from pathlib import Path
    from torch import nn

    logging.basicConfig(level="INFO", filename="/dev/null")
    sentences = []
    class Keep(logging.Handler):
        def emit(self, record):
            sentences.append(record.getMessage())
    logging.getLogger("memplan").addHandler(Keep())

    def made():
        model = nn.Sequential(nn.Linear(999, 2000), nn.ReLU(), nn.Linear(2000, 7))
        model.cuda()
        return model, torch.optim.AdamW(model.parameters())

    def step(model, optimizer, size=321):
        loss = model(torch.randn(size, 999, device="cuda")).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def told(report):
        return report and memplan.report.as_dict(report)
"""
WEIGHTS = 4 * (999 * 2000 + 2000 + 2000 * 7 + 7)


def total(report):
    return Components(**report["components"]).total


@pytest.mark.slow
def test_the_first_steps_of_a_block_make_a_report(on_card, tmp_path):
    file = tmp_path / "run.mplan"
    said = on_card(
        LOOP,
        f"""
        model, optimizer = made()
        plain = torch.nn.Module.__call__
        with memplan.record(output={str(file)!r}) as run:
            watched = []
            for _ in range(6):
                step(model, optimizer)
                run.step(samples=321)
                watched.append(run.is_watching)
            early = told(run.report)
            assert torch.nn.Module.__call__ is plain
            assert not torch._C._cuda_isHistoryEnabled()
        say({{"report": told(run.report), "early": early, "watched": watched}})
        """,
    )
    report = said["report"]
    assert said["watched"] == [True, True, False, False, False, False]
    assert said["early"]["peak"] == report["peak"]
    assert report["source"] == "rehearsed"
    assert report["timing"] is None
    assert report["peak"]["step"] == 3
    assert total(report) == report["peak"]["allocated_bytes"]
    assert report["unattributed_bytes"] <= 0.01 * total(report)
    assert report["components"]["weights"] == WEIGHTS
    assert report["components"]["optimizer_states"] > 2 * WEIGHTS - 1024
    kept = read_capture(file)
    assert kept.report.peak.allocated_bytes == report["peak"]["allocated_bytes"]
    assert [step["step"] for step in kept.processes[0]["steps"]] == [1, 2, 3]
    assert kept.processes[0]["ended"] == "finished"


@pytest.mark.slow
def test_it_shows_what_a_rehearsal_shows(on_card, tmp_path):
    """Of the same steps, whether the model was built before the block or within."""
    blocks = """
        model, optimizer = made()
        with memplan.record() as outside:
            for _ in range(4):
                step(model, optimizer)
                outside.step()
        del model, optimizer
        torch.cuda.empty_cache()
        with memplan.record() as inside:
            model, optimizer = made()
            for _ in range(4):
                step(model, optimizer)
    """
    said = on_card(LOOP, blocks, "say([told(outside.report), told(inside.report)])")
    program = tmp_path / "train.py"
    program.write_text(
        textwrap.dedent(LOOP) + "model, optimizer = made()\n"
        "with memplan.record() as run:\n"
        "    for _ in range(4):\n"
        "        step(model, optimizer)\n"
        "        run.step()\n"
        "assert False, 'a rehearsal stops it'\n"
    )
    rehearsed = rehearse_program([sys.executable, str(program)], gpu="rtx-4090")
    assert [mark.name for mark in rehearsed.marked] == ["recorded"]
    for report in said:
        assert report["peak"]["allocated_bytes"] == rehearsed.peak.allocated_bytes
        assert report["components"] == memplan.report.as_dict(rehearsed)["components"]


@pytest.mark.slow
def test_an_exception_passes_and_what_was_seen_is_kept(on_card, tmp_path):
    file = tmp_path / "run.mplan"
    said = on_card(
        LOOP,
        f"""
        model, optimizer = made()
        try:
            with memplan.record(output={str(file)!r}) as run:
                step(model, optimizer)
                step(model, optimizer)
                raise ValueError("of the program's own")
        except ValueError as error:
            passed = str(error)
        plain = memplan.runner.watch.Watch.current is None
        say([passed, plain, told(run.report)])
        """,
    )
    passed, is_over, report = said
    assert passed == "of the program's own"
    assert is_over
    assert report["peak"]["step"] == 2
    process = read_capture(file).processes[0]
    assert process["ended"] == "crashed"
    assert process["error"] == "ValueError: of the program's own"


@pytest.mark.slow
def test_the_end_of_memory_is_reported_and_passes(on_card, tmp_path):
    file = tmp_path / "run.mplan"
    said = on_card(
        LOOP,
        f"""
        model, optimizer = made()
        try:
            with memplan.record(output={str(file)!r}) as run:
                step(model, optimizer)
                step(model, optimizer, size=10**7)
        except torch.OutOfMemoryError:
            say(told(run.report))
        """,
    )
    assert said["out_of_memory"]["asked_bytes"] == 4 * 999 * 10**7
    assert read_capture(file).processes[0]["ended"] == "out_of_memory"


@pytest.mark.slow
def test_recordings_within_and_after_each_other(on_card):
    said = on_card(
        LOOP,
        """
        def train(run):
            for _ in range(4):
                step(model, optimizer)
                run.step()

        model, optimizer = made()
        with memplan.record() as first:
            with memplan.record() as within:
                train(first)
        with memplan.record() as second:
            thread = threading.Thread(target=train, args=(second,))
            thread.start()
            thread.join()
        say([sentences, *map(told, (first.report, within.report, second.report))])
        """,
    )
    sentences, first, within, second = said
    assert len(sentences) == 1
    assert "recorded already" in sentences[0]
    assert within is None
    assert first["components"]["weights"] == second["components"]["weights"] == WEIGHTS
    assert [p["phase"] for p in second["phases"]] == [
        p["phase"] for p in first["phases"]
    ]


@pytest.mark.slow
def test_a_later_step_that_takes_more_is_mentioned(on_card):
    said = on_card(
        LOOP,
        """
        model, optimizer = made()
        with memplan.record() as run:
            for size in (321, 321, 321, 321, 9000, 321):
                step(model, optimizer, size)
                run.step()
        say(run.report.assumptions)
        """,
    )
    assert any("a later step allocated up to" in line for line in said)


@pytest.mark.slow
def test_a_block_without_a_step_says_so(on_card):
    said = on_card(
        LOOP,
        """
        with memplan.record() as run:
            torch.ones(3, device="cuda")
        say([sentences, run.report])
        """,
    )
    assert len(said[0]) == 1
    assert "no training step was seen" in said[0][0]
    assert said[1] is None


@pytest.mark.slow
def test_accelerate_with_ddp_is_recorded(on_card):
    said = on_card(
        LOOP,
        """
        from accelerate import Accelerator

        accelerator = Accelerator(gradient_accumulation_steps=2)
        model, optimizer = made()
        optimizer = accelerator.prepare(optimizer)
        # It does not wrap a model of one rank by itself.
        model = nn.parallel.DistributedDataParallel(model)
        with memplan.record() as run:
            for _ in range(8):
                with accelerator.accumulate(model):
                    loss = model(torch.randn(321, 999, device="cuda")).square().mean()
                    accelerator.backward(loss)
                    optimizer.step()
                    optimizer.zero_grad()
                if accelerator.sync_gradients:
                    run.step()
        say(told(run.report))
        """,
        variables={
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "1",
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": "29417",
        }.items(),
    )
    assert said["model"]["name"] == "Sequential"
    assert said["components"]["weights"] == WEIGHTS
    phases = [p["phase"] for p in said["phases"] if p["step"] == 3]
    assert phases == ["forward", "loss", "backward"] * 2 + ["optimizer"]


@pytest.mark.slow
def test_laps_are_read_when_the_card_has_passed_them(on_card):
    """On a virtual card every two events are a millisecond apart."""
    said = on_card(
        """
        import torch
        from memplan.runner.laps import Laps

        laps = Laps()
        begun = laps.has_begun
        for _ in range(4):
            laps.mark()
        laps.finish()
        say([begun, laps.has_begun, laps.laps_ms])
        """
    )
    assert said == [False, True, [1.0, 1.0, 1.0]]


# ---- where there is no card ----


@pytest.fixture
def no_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_without_a_device_there_is_one_sentence_and_nothing_else(
    no_card, caplog, tmp_path
):
    plain = torch.nn.Module.__call__
    with record(output=tmp_path / "run.mplan") as run:
        assert torch.nn.Module.__call__ is plain
        run.step()
    assert [entry.message for entry in caplog.records] == [NO_DEVICE]
    assert "memplan rehearse" in NO_DEVICE
    assert run.report is None
    assert not (tmp_path / "run.mplan").exists()


def test_other_ranks_leave_the_sentence_to_the_first(no_card, caplog, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    with record():
        pass
    assert not caplog.records


def test_a_recording_is_used_once(no_card):
    run = record()
    with run:
        pass
    with pytest.raises(MemplanError, match="used once"), run:
        pass


def test_files_are_refused_before_the_training(tmp_path):
    (tmp_path / "there.mplan").touch()
    with pytest.raises(CaptureFileError, match="exists already"):
        record(output=tmp_path / "there.mplan")
    record(output=tmp_path / "there.mplan", force=True)
    with pytest.raises(CaptureFileError, match="not named as a capture"):
        record(output=tmp_path / "run.json")
    with pytest.raises(CaptureFileError, match="no folder"):
        record(output=tmp_path / "nowhere" / "run.mplan")


def test_every_rank_writes_a_file_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    run = record(output=tmp_path / "run.mplan")
    assert run.file == tmp_path / "run-rank3.mplan"


def test_no_step_to_watch_is_an_error():
    with pytest.raises(PlanError, match="Watching 0 steps"):
        record(watch_steps=0)


class Broken:
    """A recorder that fails where it may hurt most."""

    is_watching = True

    def __init__(self, error):
        self.error = error

    def end(self, error):
        raise self.error


class Ended:
    """A recorder that has seen this."""

    is_watching = False

    def __init__(self, capture):
        self.capture = capture

    def end(self, error):
        return self.capture


def test_a_card_s_report_is_measured_and_has_the_rates_of_what_was_said(monkeypatch):
    """What a card would give, by hand: 4 steps of 50 ms with 8 samples each."""
    timing = {
        "step_ms": [50.0] * 4,
        "stall_ms": [],
        "warmup_steps": 4,
        "flops_per_step": None,
        "samples": 32,
        "tokens": None,
    }
    seen = capture(is_virtual=False, timing=timing)
    card = CardAtHand(
        gpu=find_gpu("rtx-4090"), is_catalogued=True, is_virtual=False, num_devices=1
    )
    monkeypatch.setattr("memplan.recording._begun", lambda steps: Ended(seen))
    monkeypatch.setattr("memplan.running.card_at_hand.card_in_use", lambda index: card)
    with record() as run:
        pass
    assert run.report.source == "measured"
    assert run.report.timing.num_steps == 4
    assert run.report.timing.samples_per_s == 160
    assert run.report.timing.tokens_per_s is None
    assert run.captured is seen


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("a bug"), "this recording failed"),
        (CaptureFileError("The disk is full.", hint="Free some."), "The disk is full."),
    ],
)
def test_what_goes_wrong_here_never_ends_a_training(error, said, caplog, monkeypatch):
    monkeypatch.setattr("memplan.recording._begun", lambda steps: Broken(error))
    with caplog.at_level(logging.WARNING), record():
        pass
    assert said in caplog.text
    with pytest.raises(ZeroDivisionError), record():
        raise ZeroDivisionError
