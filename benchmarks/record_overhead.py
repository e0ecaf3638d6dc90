"""What a recording adds to a step after those it watches. See README.md beside this.

A training step of GPT-2 is run in blocks, in turn with a recording and without, in one
process. On a virtual card a step is host time alone, so this is the strictest case.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from itertools import pairwise
from statistics import median, quantiles

from memplan.hardware import find_gpu
from memplan.units import MiB
from memplan.virtual import virtual_environment

WATCHED = 3
WARM_UP = 3
"""Steps after those before a block is timed."""
SIZES = {
    # Layers, width, samples, tokens.
    "gpt2, 8 x 512 tokens": (12, 768, 8, 512),
    "2 layers of it, 2 x 64 tokens": (2, 768, 2, 64),
    "2 layers of width 64, 2 x 16 tokens": (2, 64, 2, 16),
}
DEVICES = {"virtual": list(SIZES)[:2], "cpu": list(SIZES)[2:], "cuda": list(SIZES)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", choices=DEVICES)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(measure(options.inside, options.rounds, options.steps)))
        return
    print("| device | step | own loop | transformers | Lightning |")
    print("|---|---|---|---|---|")
    for device in [options.device] if options.device else ["virtual", "cpu"]:
        for size in DEVICES[device]:
            row = in_a_process(device, size, options)
            cells = (
                f"{row[f'{name} own']:.2f} %, {row[name]:.2f}"
                for name in ("loop", "transformers", "lightning")
            )
            step = f"{size}: {row['step_ms']:.1f} ms"
            print("|", " | ".join((device, step, *cells)), "|", flush=True)


def in_a_process(
    device: str, size: str, options: argparse.Namespace
) -> dict[str, float]:
    """Run one row where the device is what it is to be."""
    environment = dict(os.environ)
    if device == "virtual":
        card = virtual_environment(None, find_gpu("h100-80gb"), context_bytes=500 * MiB)
        environment |= card.variables
    elif device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    own = [sys.executable, __file__, "--inside", size]
    counts = ["--rounds", str(options.rounds), "--steps", str(options.steps)]
    done = subprocess.run(
        [*own, *counts], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    row: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return row


def measure(size: str, rounds: int, steps: int) -> dict[str, float]:
    """Times with a recording over times without, for each way to train."""
    import torch

    torch.set_num_threads(1)
    for name in ("memplan", "transformers", "lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    row = {}
    for name, block in (
        ("loop", loop(size)),
        ("transformers", transformers_trainer(size)),
        ("lightning", lightning_trainer(size)),
    ):
        block(False, steps)  # what happens once
        own_s.clear()
        times: dict[bool, list[float]] = {True: [], False: []}
        for number in range(rounds):
            first = number % 2 == 0
            for is_recorded in (first, not first):
                times[is_recorded].append(block(is_recorded, steps))
        step_s = min(times[False])
        row[name] = min(times[True]) / step_s
        row[f"{name} own"] = 100 * median(own_s) / step_s
        row.setdefault("step_ms", 1000 * step_s)
    return row


Block = Callable[[bool, int], float]
"""Processor seconds of a step, of so many; with a recording or not."""

own_s: list[float] = []
"""What each call of memplan's at the end of a step took of its thread."""


def timed(call: Callable[..., None]) -> Callable[..., None]:
    """The call, with the time it takes kept in `own_s`."""

    def timed_call(*args: object, **kwargs: object) -> None:
        start = time.thread_time()
        call(*args, **kwargs)
        own_s.append(time.thread_time() - start)

    return timed_call


class Clock:
    """Takes the time between steps, after those that are watched and a few more."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def tick(self) -> None:
        self._times.append(time.process_time())

    def step_s(self) -> float:
        """A tenth of the steps took less: others on the machine make most longer."""
        times = self._times[WATCHED + WARM_UP :]
        return quantiles([b - a for a, b in pairwise(times)], n=10)[0]


def loop(size: str) -> Block:
    """A loop of one's own, with `memplan.record()`."""
    import torch

    import memplan

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = make_model(size).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    batch = {k: v[None].expand(SIZES[size][2], -1).to(device) for k, v in row(size)}

    def train(num_steps: int, after_step: Callable[[], None]) -> float:
        clock = Clock()
        for _ in range(num_steps + WATCHED + WARM_UP):
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            after_step()
            clock.tick()
        return clock.step_s()

    def block(is_recorded: bool, num_steps: int) -> float:
        if not is_recorded:
            return train(num_steps, lambda: None)
        with memplan.record() as run:
            return train(num_steps, timed(run.step))

    return block


def transformers_trainer(size: str) -> Block:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from memplan.integrations.transformers import MemplanCallback

    class Ticks(TrainerCallback):
        def __init__(self) -> None:
            self.clock = Clock()

        def on_step_begin(self, *args: object, **kwargs: object) -> None:
            self.clock.tick()

    folder = tempfile.mkdtemp()
    model = make_model(size)

    def block(is_recorded: bool, num_steps: int) -> float:
        ticks = Ticks()
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=num_steps + WATCHED + WARM_UP,
            per_device_train_batch_size=SIZES[size][2],
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="no",
            dataloader_pin_memory=False,
        )
        callbacks = [ticks]
        if is_recorded:
            callback = MemplanCallback()
            callback.on_step_end = timed(callback.on_step_end)
            callbacks.append(callback)
        trainer = Trainer(
            model=model, args=arguments, train_dataset=rows(size), callbacks=callbacks
        )
        with redirect_stdout(sys.stderr):  # where the result goes, nothing else does
            trainer.train()
        return ticks.clock.step_s()

    return block


def lightning_trainer(size: str) -> Block:
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer

    from memplan.integrations.lightning import MemplanCallback

    class Ticks(Callback):
        def __init__(self) -> None:
            self.clock = Clock()

        def on_train_batch_start(self, *args: object) -> None:
            self.clock.tick()

    class Language(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = make_model(size).train()

        def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
            return self.model(**batch).loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters())

    module = Language()

    def block(is_recorded: bool, num_steps: int) -> float:
        ticks = Ticks()
        callbacks = [ticks]
        if is_recorded:
            callback = MemplanCallback()
            callback.on_train_batch_end = timed(callback.on_train_batch_end)
            callbacks.append(callback)
        trainer = Trainer(
            max_steps=num_steps + WATCHED + WARM_UP,
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
            devices=1,
        )
        loader = torch.utils.data.DataLoader(rows(size), batch_size=SIZES[size][2])
        trainer.fit(module, loader)
        return ticks.clock.step_s()

    return block


def make_model(size: str):
    from transformers import GPT2Config, GPT2LMHeadModel

    layers, width, _, tokens = SIZES[size]
    vocabulary = 50257 * width // 768
    return GPT2LMHeadModel(
        GPT2Config(
            n_layer=layers,
            n_embd=width,
            n_head=width // 64,
            n_positions=tokens,
            vocab_size=vocabulary,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def row(size: str):
    """Of a data set, as its items."""
    import torch

    ids = torch.arange(SIZES[size][3])
    return [("input_ids", ids), ("labels", ids)]


def rows(size: str):
    return [dict(row(size))] * 2000


if __name__ == "__main__":
    main()
