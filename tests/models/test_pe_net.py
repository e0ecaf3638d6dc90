"""PE-Net: its parameters part by part, its hot spot, and what a configuration moves.

Counts were made on the modules of the published code (VL-Group/PENET).
"""

import json

import pytest

from memplan import TrainingPlan, estimate
from memplan.errors import ModelConfigError, PlanError
from memplan.formulas.backward import run_backward
from memplan.formulas.setting import Batch, Setting
from memplan.formulas.tape import Tape
from memplan.formulas.weights import Storing
from memplan.models import find_model
from memplan.models.pe_net.config import PENetConfig
from memplan.models.pe_net.detector import detect, sides
from memplan.models.pe_net.formula import batch_bytes, buffer_bytes, pairs_per_image
from memplan.models.pe_net.losses import algebraic_distances, expanded_distances
from memplan.units import GiB, MiB

RELATION = r"^roi_heads\.relation\."
PREDICTOR = "roi_heads.relation.predictor."
UNION = "roi_heads.relation.union_feature_extractor."

# Parts, by the beginning of their names, and their parameters.
PARTS = [
    (PREDICTOR, 110_437_444),
    (f"{PREDICTOR}post_emb.", 16_781_312),
    (f"{PREDICTOR}W_sub.", 2_407_424),
    (f"{PREDICTOR}W_obj.", 2_407_424),
    (f"{PREDICTOR}W_pred.", 2_407_424),
    (f"{PREDICTOR}gate_sub.", 8_390_656),
    (f"{PREDICTOR}gate_obj.", 8_390_656),
    (f"{PREDICTOR}gate_pred.", 8_390_656),
    (f"{PREDICTOR}vis2sem.", 16_783_360),
    (f"{PREDICTOR}project_head.", 12_589_056),
    (f"{PREDICTOR}linear_", 16_785_408),
    (f"{PREDICTOR}down_samp.", 12_587_008),
    (f"{PREDICTOR}lin_obj_cyx.", 2_316_800),
    (f"{PREDICTOR}out_obj.", 77_463),
    (f"{PREDICTOR}obj_embed.", 45_300),
    (f"{PREDICTOR}obj_embed1.", 45_300),
    (f"{PREDICTOR}rel_embed.", 15_300),
    (f"{PREDICTOR}norm_", 12_288),
    (f"{PREDICTOR}pos_embed.", 4_608),
    (f"{PREDICTOR}logit_scale", 1),
    ("roi_heads.relation.box_feature_extractor.", 68_165_632),
    (f"{UNION}feature_extractor.fc", 68_165_632),
    (f"{UNION}feature_extractor.pooler.reduce_channel.", 2_359_552),
    (f"{UNION}rect_conv.", 308_608),
    ("roi_heads.relation.", 249_436_868),
    ("backbone.body.", 86_539_456),
    ("backbone.fpn.", 3_344_384),
    ("rpn.", 595_220),
    ("roi_heads.box.", 71_258_867),
    ("", 411_174_795),
]


def make_tape(config=None, batch_size=1, **setting):
    """A tape, and the loss of one forward pass on it where there is a configuration."""
    t = Tape(
        policy=Storing(dtype="fp32", trainable=(RELATION,), frozen_dtype="fp32"),
        setting=Setting(**setting),
    )
    loss = None
    if config is not None:
        batch = Batch(size=batch_size, image_size=800)
        loss = find_model("pe-net-vg150").family.forward(t, config, batch)
    return t, loss


def published_plan(**changes):
    """scripts/train.sh: batch 8, fp32, SGD with momentum, clipped at 5.0."""
    plan = {
        "model": "pe-net-vg150",
        "precision": "fp32",
        "optim": "sgd_momentum",
        "per_device_train_batch_size": 8,
        "max_grad_norm": 5.0,
        "gpu": "rtx-3090",
        "torch": "2.14",
    }
    return TrainingPlan(**plan | changes)


@pytest.fixture
def configured(tmp_path):
    """The published plan with some fields of the configuration changed."""

    def plan(*, gpu="rtx-3090", image_size=800, **fields):
        file = tmp_path / "config.json"
        file.write_text(json.dumps({"model_type": "pe-net", **fields}))
        return published_plan(
            model=str(file), trainable=RELATION, gpu=gpu, image_size=image_size
        )

    return plan


@pytest.fixture(scope="module")
def parameters():
    t, _ = make_tape(PENetConfig())
    return t.parameters.values()


@pytest.mark.parametrize(("beginning", "count"), PARTS)
def test_a_part_has_its_published_parameters(parameters, beginning, count):
    part = [p for p in parameters if p.name.startswith(beginning)]
    assert sum(p.num_elements * p.count for p in part) == count


def test_all_but_the_relation_head_is_frozen(parameters):
    frozen = [p for p in parameters if not p.stored.is_trainable]
    assert sum(p.num_elements * p.count for p in frozen) == 161_737_927


def test_a_published_batch_fits_the_card_it_was_trained_on():
    report = estimate(published_plan())
    assert report.fits
    assert report.device.total_bytes < 24 * GiB


def test_weights_are_four_bytes_a_parameter():
    assert estimate(published_plan()).components.weights == 4 * 411_174_795


def test_the_peak_is_where_the_distances_go_back():
    peak = estimate(published_plan()).peak
    assert (peak.phase, peak.module.split()[-1]) == ("backward", "norm")


def hot_spot(function, autocast=None):
    """Differences of 8 x 512 pairs and 51 prototypes of 4096: forward, and back."""
    t, _ = make_tape(autocast=autocast)
    dtype = autocast or "fp32"
    rel_rep, proto = (t.tensor((rows, 4096), dtype) for rows in (8 * 512, 51))
    rel_rep.edge, proto.edge = t.new_edge(), t.new_edge()
    before = t.live.block_bytes
    distances = function(t, rel_rep, proto)
    saved = t.live.block_bytes - before
    t.end_phase("forward")
    run_backward(t, distances)
    return saved / GiB, (t.peak.at.block_bytes - before) / GiB


def test_one_copy_of_the_differences_is_three_and_a_fifth_gib():
    copy_bytes = 4 * (8 * 512) * 51 * 4096
    assert copy_bytes == 3.1875 * GiB


def test_the_published_distances_save_one_copy_and_go_back_with_three():
    forward, backward = hot_spot(expanded_distances)
    assert forward == pytest.approx(3.1875, abs=0.005)
    assert backward == pytest.approx(3 * 3.1875, abs=0.005)


def test_autocast_halves_what_is_saved_and_not_what_goes_back():
    forward, backward = hot_spot(expanded_distances, "bf16")
    assert forward == pytest.approx(3.1875 / 2, abs=0.005)
    assert backward == pytest.approx(2.5 * 3.1875, abs=0.005)


def test_the_rewritten_distances_take_a_few_copies_of_the_pairs():
    forward, backward = hot_spot(algebraic_distances)
    pairs = 4 * 8 * 512 * 4096 / GiB
    assert forward < 3 * pairs
    assert backward < 6 * pairs


def test_the_rewriting_saves_three_copies_at_the_peak(configured):
    published = estimate(configured()).peak.allocated_bytes
    rewritten = estimate(configured(distance="algebraic")).peak.allocated_bytes
    assert 2.5 * 3.1875 < (published - rewritten) / GiB < 3 * 3.1875


@pytest.mark.parametrize("name", ["pairs", "boxes"])
def test_more_regions_need_more(configured, name):
    field = f"num_{name}_per_image"
    peaks = [
        estimate(configured(**{field: size})).peak.allocated_bytes
        for size in (10, 100, 600)
    ]
    assert peaks == sorted(set(peaks))


def test_the_pooled_unions_are_saved_with_all_levels_joined():
    config = PENetConfig(distance="algebraic")
    t, loss = make_tape(config, batch_size=8)
    unions = 4 * 8 * 512 * 4 * 256 * 7 * 7
    assert unions == 784 * MiB
    assert unions < t.live.saved_bytes
    del loss


def test_the_detector_leaves_its_pyramid_and_the_features_of_the_boxes():
    t, _ = make_tape()
    config = PENetConfig()
    with t.no_grad():
        held = detect(t, config, Batch(size=8, image_size=800))
    places = [(152, 256), (76, 128), (38, 64), (19, 32), (10, 16)]
    pyramid = sum(4 * 8 * 256 * height * width for height, width in places)
    assert t.live.temporary_bytes == pyramid + 4 * 8 * 80 * 4096
    assert t.live.saved_bytes == 0
    assert [feature.shape[2:] for feature in held[0]] == places


def test_the_detector_is_highest_at_the_finest_level_of_its_pyramid(configured):
    plan = configured(num_pairs_per_image=16, distance="algebraic")
    peak = estimate(plan).peak
    assert (peak.phase, peak.module) == ("forward", "backbone.fpn.fpn_layer1")


@pytest.mark.parametrize(
    ("image_size", "padded"), [(800, (608, 1024)), (256, (192, 320)), (1, (32, 32))]
)
def test_pictures_are_three_to_five_padded_to_32(image_size, padded):
    assert sides(image_size) == padded


def test_a_picture_is_800_pixels_at_a_mean_unless_told():
    family = find_model("pe-net-vg150").family
    assert family.default_image_size(PENetConfig()) == (600 + 1000) / 2


def test_testing_takes_every_ordered_pair_of_boxes():
    batch = Batch(size=1, image_size=800, has_labels=False)
    assert pairs_per_image(PENetConfig(), batch) == 80 * 79 == 6320


def test_testing_has_no_gradients():
    components = estimate(published_plan(workload="generate")).components
    assert (components.gradients, components.optimizer_states) == (0, 0)
    assert components.activations == 0


def test_frozen_batch_norms_keep_four_numbers_a_channel():
    # 64 in the stem; 3 of width and 1 of the shortcut in every first block.
    widths = [256, 512, 1024, 2048]
    channels = 64 + sum(
        width + count * (2 * width + width)
        for width, count in zip(widths, (3, 4, 23, 3), strict=True)
    )
    trained = sum(2 * 4 * size + 8 for size in (128, 256, 32))
    assert buffer_bytes(PENetConfig()) == 4 * 4 * channels + trained


def test_a_batch_is_pictures_boxes_and_pairs():
    batch = Batch(size=8, image_size=800)
    images = 4 * 8 * 3 * 608 * 1024
    boxes, pairs = 8 * 80 * (16 + 8), 8 * 512 * (16 + 8)
    expected = images + boxes + pairs + buffer_bytes(PENetConfig())
    assert batch_bytes(PENetConfig(), batch) == expected


def test_object_classes_are_learnt_where_they_are_not_given():
    def learnt(mode):
        t, loss = make_tape(PENetConfig(mode=mode))
        run_backward(t, loss)
        return t.live.gradient_bytes

    refining = 2_316_800 + 77_463 + 45_300 + 4_608
    assert learnt("sgcls") - learnt("predcls") == 4 * refining


def test_layers_that_the_loss_does_not_see_have_no_momentum():
    # linear_pred never runs; what refines classes runs in vain where they are given.
    unseen = 2048 * 2048 + 2048 + 2_316_800 + 77_463 + 45_300 + 4_608
    components = estimate(published_plan()).components
    assert components.optimizer_states == 4 * (249_436_868 - unseen)


def test_the_detector_cannot_be_trained():
    with pytest.raises(PlanError, match="detector is frozen"):
        estimate(published_plan(trainable="all"))


def test_detection_sees_more_regions_than_it_keeps(configured):
    given = estimate(configured(mode="sgcls", num_pairs_per_image=1))
    found = estimate(configured(mode="sgdet", num_pairs_per_image=1))
    assert found.model == given.model
    assert found.peak.allocated_bytes >= given.peak.allocated_bytes


def test_workspaces_that_are_not_counted_are_named(configured):
    assert any(
        "cuDNN's workspaces" in line for line in estimate(configured()).unsupported
    )


def test_checkpointing_is_refused_with_a_way_out():
    with pytest.raises(PlanError, match="no layers that are checkpointed") as caught:
        estimate(published_plan(activation_checkpointing="full"))
    assert "algebraic" in caught.value.hint


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"num_pairs_per_image": 0}, "num_pairs_per_image"),
        ({"num_blocks": (3, 0, 1, 1)}, "a stage of no size"),
        ({"num_blocks": (3, 4, 23)}, "num_blocks"),
        ({"mlp_dim": 7}, "must be even"),
        ({"dropout": 1.0}, "dropout"),
        ({"distance": "cosine"}, "distance"),
        ({"mode": "sgg"}, "mode"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(configured, fields, problem):
    with pytest.raises(ModelConfigError, match=problem):
        estimate(configured(**fields))


def test_a_large_batch_is_estimated_as_fast_as_a_small_one():
    small, large = (
        len(make_tape(PENetConfig(), batch_size=size)[0].nodes) for size in (2, 2**30)
    )
    assert small == large
