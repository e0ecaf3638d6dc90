"""A recommendation that a rehearsal confirms, on a card that is played."""

import json

import pytest

from memplan import recommend
from memplan.comparing.engines import Rehearsals
from memplan.plan import TrainingPlan
from memplan.recommend import confirm

pytestmark = pytest.mark.slow


@pytest.fixture
def model(tmp_path, card_variables):
    """GPT-2 with two small layers; skipped where no card can be played."""
    config = {
        "model_type": "gpt2",
        "n_layer": 2,
        "n_embd": 64,
        "n_head": 2,
        "vocab_size": 503,
        "n_positions": 64,
    }
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    return str(file)


def test_the_best_is_rehearsed_and_still_fits(model, tmp_path):
    found = recommend(
        TrainingPlan(model=model),
        global_batch=4,
        gpus=["rtx-4090"],
        max_gpus=1,
        allow=["-rounding"],
    )
    said = []
    engine = Rehearsals(1, folder=tmp_path / "kept")
    seen = confirm(found, engine, 1, said.append)
    assert said == ["1 of 1: 1 x rtx-4090"]
    assert seen.best.plan == found.best.plan
    assert seen.best.confirmed.fits
    # Of so small a model most is the context, which both have from the same file.
    assert seen.best.confirmed.device_bytes == pytest.approx(
        found.best.need_bytes, rel=0.1
    )
