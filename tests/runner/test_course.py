"""Watched steps, timed steps, a counted one, the end: on a card that is played.

The runner is told that the card is no virtual one, to have it take all of its way; the
times that it then reads mean nothing, and no test looks at them.
"""

import pytest

pytest.importorskip("torch")

pytestmark = pytest.mark.slow

PROGRAM = """
    import sys
    from pathlib import Path
    import torch
    from torch import nn
    from memplan.runner import course
    from memplan.runner.settings import Settings

    course.is_virtual = lambda: False
    folder = Path(__file__).parent / "captures"
    for old in folder.glob("*"):
        old.unlink()

    def start(**given):
        settings = Settings(folder=folder, steps=3, **given)
        course.Course(settings, None, None).start()

    def captured():
        [file] = folder.glob("capture-*.json")
        return json.loads(file.read_text())

    model = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 256)).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    taken = []

    def step(rows=64):
        loss = model(torch.randn(rows, 512, device="cuda")).square().mean()
        loss.backward()
        taken.append(rows)
        optimizer.step()
        optimizer.zero_grad()
"""
FORWARD = 2 * 64 * (512 * 1024 + 1024 * 256)


def test_it_goes_all_the_way_and_leaves(on_card):
    said = on_card(
        PROGRAM,
        """
        start(timed_steps=4, counts_flops=True)
        try:
            while True:
                step()
        except SystemExit as left:
            say([captured(), len(taken), left.code])
        """,
    )
    capture, num_taken, code = said
    assert (capture["ended"], code) == ("stopped", 0)
    assert num_taken == 3 + 2 + 4 + 1
    assert [step["step"] for step in capture["steps"]] == [1, 2, 3]
    timing = capture["timing"]
    assert len(timing["step_ms"]) == len(timing["stall_ms"]) == 4
    assert timing["warmup_steps"] == 2
    # The batch wants no gradient: the first layer's backward pass is one product.
    first = 2 * 64 * 512 * 1024
    assert timing["flops_per_step"] == 3 * FORWARD - first
    assert capture["assumptions"] == []


def test_a_higher_peak_of_a_step_that_was_timed_is_told(on_card):
    capture = on_card(
        PROGRAM,
        """
        start(timed_steps=3)
        try:
            for rows in [64] * 6 + [6400] + [64] * 9:
                step(rows)
        except SystemExit:
            say(captured())
        """,
    )
    higher = capture["timing"]["peak_allocated_bytes"]
    assert higher > capture["peak"]["allocated_bytes"]
    [line] = capture["assumptions"]
    assert line.startswith("of the steps that were timed one allocated")


def test_a_program_that_ends_by_itself_leaves_what_there_is(on_card):
    said = on_card(
        PROGRAM,
        """
        import atexit
        atexit.register(lambda: say(captured()))  # after the capture's own
        start(timed_steps=50, counts_flops=True)
        for _ in range(8):
            step()
        """,
    )
    assert said["ended"] == "finished"
    assert len(said["timing"]["step_ms"]) == 3
    assert said["timing"]["flops_per_step"] is None


def test_what_was_watched_is_there_before_the_first_step_is_timed(on_card):
    capture = on_card(
        PROGRAM,
        """
        start(timed_steps=50)
        for _ in range(4):
            step()
        say(captured())
        """,
    )
    assert capture["ended"] == "died"
    assert capture["peak"]["step"] == 3
    assert capture["timing"]["step_ms"] == []


def test_memory_that_runs_out_while_steps_are_timed_is_told(on_card):
    said = on_card(
        PROGRAM,
        """
        import atexit
        atexit.register(lambda: say(captured()))
        start(timed_steps=50)
        for _ in range(7):
            step()
        try:
            step(rows=4 << 20)
        except torch.OutOfMemoryError:
            pass
        """,
    )
    error = said["out_of_memory"]
    assert (error["step"], error["phase"], error["caught"]) == (8, "forward", True)
    assert error["components"]["weights"] == 4 * (512 * 1024 + 1024 + 1024 * 256 + 256)
    assert "train.py" in error["line"]


def test_a_virtual_card_has_no_times(on_card):
    said = on_card(
        PROGRAM,
        """
        course.is_virtual = lambda: True
        start(timed_steps=4, counts_flops=True)
        try:
            while True:
                step()
        except SystemExit:
            say([captured(), len(taken)])
        """,
    )
    capture, num_taken = said
    assert num_taken == 4
    assert capture["timing"]["step_ms"] == []
    assert capture["timing"]["flops_per_step"] > FORWARD
