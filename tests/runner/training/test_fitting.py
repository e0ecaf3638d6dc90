"""A mixture's gradients, its one update, and a run that goes on as if never stopped."""

from itertools import islice
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")

import torch
from torch import nn

from memplan.data.loading import Loading, batches
from memplan.errors import DataError
from memplan.runner.training.fitting import (
    Fitting,
    Recipe,
    Source,
    make_accelerator,
)


class Points:
    """Points on a line, with noise by the sample's own generator."""

    def __init__(self, slope, count=32):
        self.slope = slope
        self.count = count

    def __len__(self):
        return self.count

    def draw(self, index, random):
        x = index / self.count
        return x, self.slope * x + random.gauss(0, 0.1)


def collate(points):
    x, y = torch.tensor(points).T
    return {"x": x[:, None], "y": y[:, None]}


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(1, 1)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x, y):
        predicted = self.dropout(self.map(x))
        return SimpleNamespace(loss=(predicted - y).square().mean())


def source(name="points", slope=2.0, weight=1.0, batch_size=4):
    loading = Loading(batch_size=batch_size, seed=3)
    return Source(
        name=name,
        samples=Points(slope),
        collate=collate,
        loading=loading,
        weight=weight,
    )


def fitting(sources, accumulation=1, learning_rate=0.1, **recipe):
    torch.manual_seed(7)
    model = Line()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=5)
    accelerator = make_accelerator(len(sources), accumulation, cpu=True)
    made = Recipe(optimizer=optimizer, schedule=schedule, **recipe)
    return Fitting(accelerator, model, made, sources)


def test_it_learns():
    losses = fitting([source()]).fit(60)
    assert losses[-1]["points"] < losses[0]["points"] / 2


def test_gradients_are_the_weighted_sum_of_the_means():
    seen = []
    sources = [source("a", 1.0, weight=1.0), source("b", -3.0, weight=0.2)]

    def keep():
        seen.append(run.model.map.weight.grad.clone())

    run = fitting(sources, accumulation=2, adjust_gradients=keep)
    run.model.dropout.p = 0.0
    run.step()

    torch.manual_seed(7)
    model = Line()
    model.dropout.p = 0.0
    total = 0.0
    for each in sources:
        for batch in islice(batches(each.samples, collate, each.loading), 2):
            total = total + each.weight * model(**batch.content).loss / 2
    total.backward()
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], model.map.weight.grad)


def test_gradients_are_clipped_once_they_are_all_there():
    norms = []
    run = fitting([source(slope=50.0)], accumulation=2, max_grad_norm=0.5)
    clip = run.accelerator.clip_grad_norm_

    def watched(parameters, limit):
        norms.append(clip(parameters, limit))
        return norms[-1]

    run.accelerator.clip_grad_norm_ = watched
    run.fit(3)
    assert len(norms) == 3
    assert min(norms) > 0.5


def test_a_schedule_steps_once_an_update():
    run = fitting([source("a"), source("b")], accumulation=3)
    run.fit(2)
    assert run.recipe.schedule.last_epoch == 2


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_resumed_run_has_the_losses_of_an_unbroken_one(tmp_path, accumulation):
    sources = [source("a", 1.0), source("b", -3.0, weight=0.2)]
    unbroken = fitting(sources, accumulation).fit(12)

    first = fitting(sources, accumulation)
    losses = first.fit(5)
    first.save(tmp_path)
    losses += first.fit(1)  # lost in the crash
    second = fitting(sources, accumulation, learning_rate=0.5)
    assert second.resume(tmp_path) == 5
    losses = losses[:5] + second.fit(7)
    assert losses == unbroken


def test_a_checkpoint_that_is_not_whole_is_not_gone_on_from(tmp_path):
    run = fitting([source()])
    run.fit(1)
    run.save(tmp_path)
    (tmp_path / "partial-00000009").mkdir()
    assert fitting([source()]).resume(tmp_path) == 1


def test_without_a_checkpoint_there_is_nothing_to_resume(tmp_path):
    with pytest.raises(DataError, match="no checkpoint"):
        fitting([source()]).resume(tmp_path)
