"""The recipe moves what the published one moves, as fast, and no more."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("transformers")

from memplan.formulas.setting import Batch  # noqa: E402
from memplan.models import find_model  # noqa: E402
from memplan.models.pe_net import module  # noqa: E402
from memplan.recipes.pe_net import (  # noqa: E402
    freeze_detector,
    make_optimizer,
    make_schedule,
    start_from_detector,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = replace(
        find_model("pe-net-tiny").config, num_boxes_per_image=4, num_pairs_per_image=6
    )
    made = module.build(config, torch.float32, None).train()
    freeze_detector(made)
    return made


def test_the_rate_is_that_of_all_pictures(model):
    optimizer = make_optimizer(model, batch_size=8)
    weights, biases = optimizer.param_groups
    assert {group["lr"] for group in (weights, biases)} == {8e-3}
    assert {group["momentum"] for group in (weights, biases)} == {0.9}
    assert (weights["weight_decay"], biases["weight_decay"]) == (1e-4, 0)


def test_all_of_the_relation_head_moves_and_nothing_else(model):
    optimizer = make_optimizer(model)
    moved = [p for group in optimizer.param_groups for p in group["params"]]
    assert sum(p.numel() for p in moved) == 2_397_930
    relation = {id(p) for p in model.roi_heads["relation"].parameters()}
    assert {id(p) for p in moved} == relation


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.1),
        (250, 0.55),
        (500, 1),
        (27_999, 1),
        (28_000, 0.1),
        (47_999, 0.1),
        (48_000, 0.01),
        (60_000, 0.01),
    ],
)
def test_the_rate_warms_up_and_is_cut_twice(model, step, factor):
    schedule = make_schedule(make_optimizer(model))
    (found,) = {function(step) for function in schedule.lr_lambdas}
    assert found == pytest.approx(factor)


def test_both_extractors_begin_as_the_detectors(model):
    start_from_detector(model)
    names = dict(model.named_parameters())
    trained = names["roi_heads.box.feature_extractor.fc6.weight"]
    for place in (
        "box_feature_extractor",
        "union_feature_extractor.feature_extractor",
    ):
        copy = names[f"roi_heads.relation.{place}.fc6.weight"]
        assert torch.equal(copy, trained)
        assert copy is not trained


def test_a_step_leaves_the_detector_as_it_was(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = make_optimizer(model)
    sizes = Batch(size=2, image_size=64)
    model(**module.make_batch(model.config, sizes, torch.float32)).loss.backward()
    optimizer.step()
    moved = {
        name
        for name, value in model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert moved
    assert all(name.startswith("roi_heads.relation.") for name in moved)


def test_what_has_no_gradient_has_no_momentum(model):
    optimizer = make_optimizer(model)
    sizes = Batch(size=2, image_size=64)
    model(**module.make_batch(model.config, sizes, torch.float32)).loss.backward()
    optimizer.step()
    predictor = model.roi_heads["relation"].predictor
    idle = [*predictor.out_obj.parameters(), *predictor.lin_obj_cyx.parameters()]
    idle += [*predictor.linear_pred.parameters(), predictor.obj_embed1.weight]
    assert not any(p in optimizer.state for p in idle)
    assert predictor.rel_embed.weight in optimizer.state
