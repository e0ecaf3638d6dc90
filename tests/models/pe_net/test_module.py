"""PE-Net's module: its parameters, its inputs by task, its losses by hand."""

import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("transformers")

from memplan.formulas.setting import Batch, Setting  # noqa: E402
from memplan.formulas.tape import Tape  # noqa: E402
from memplan.formulas.weights import Storing  # noqa: E402
from memplan.models import find_model  # noqa: E402
from memplan.models.pe_net import module  # noqa: E402
from memplan.models.pe_net.prototypes import (  # noqa: E402
    PrototypeEmbeddingNetwork,
    box_info,
    choose_classes,
    distance_loss,
    one_hot_logits,
    similarity_loss,
    spread_loss,
)

RELATION = r"^roi_heads\.relation\."
PRESETS = ["pe-net-vg150", "pe-net-algebraic", "pe-net-tiny"]
OURS = {"backbone.0.": "backbone.body.", "backbone.1.": "backbone.fpn."}
"""The module's names of parts, and the closed form's."""

# Parts of the module by their names, and what the published code has there.
PREDICTOR = [
    ("post_emb.", 16_781_312),
    ("W_sub.", 2_407_424),
    ("W_obj.", 2_407_424),
    ("W_pred.", 2_407_424),
    ("gate_sub.", 8_390_656),
    ("gate_obj.", 8_390_656),
    ("gate_pred.", 8_390_656),
    ("vis2sem.", 16_783_360),
    ("project_head.", 12_589_056),
    ("linear_", 16_785_408),
    ("down_samp.", 12_587_008),
    ("lin_obj_cyx.", 2_316_800),
    ("out_obj.", 77_463),
    ("obj_embed.", 45_300),
    ("obj_embed1.", 45_300),
    ("rel_embed.", 15_300),
    ("norm_", 12_288),
    ("pos_embed.", 4_608),
    ("logit_scale", 1),
    ("", 110_437_444),
]
UNION = "roi_heads.relation.union_feature_extractor."
PARTS = [
    *((f"roi_heads.relation.predictor.{name}", count) for name, count in PREDICTOR),
    ("roi_heads.relation.box_feature_extractor.", 68_165_632),
    (f"{UNION}feature_extractor.fc", 68_165_632),
    (f"{UNION}feature_extractor.pooler.reduce_channel.", 2_359_552),
    (f"{UNION}rect_conv.", 308_608),
    ("roi_heads.relation.", 249_436_868),
    ("backbone.0.", 86_539_456),
    ("backbone.1.", 3_344_384),
    ("rpn.", 595_220),
    ("roi_heads.box.", 71_258_867),
    ("", 411_174_795),
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def on_meta(name):
    with torch.device("meta"):
        return module.build(find_model(name).config, torch.float32, None)


@pytest.fixture(scope="module")
def published():
    return dict(on_meta("pe-net-vg150").named_parameters())


@pytest.mark.parametrize(("beginning", "count"), PARTS)
def test_a_part_of_the_module_has_its_published_parameters(published, beginning, count):
    part = [p.numel() for name, p in published.items() if name.startswith(beginning)]
    assert sum(part) == count


@pytest.mark.parametrize("name", PRESETS)
def test_the_closed_form_has_the_modules_parameters(name):
    model = find_model(name)
    t = Tape(
        policy=Storing(dtype="fp32", trainable=(RELATION,), frozen_dtype="fp32"),
        setting=Setting(),
    )
    model.family.forward(t, model.config, Batch(size=1, image_size=256))
    counted = {}
    for p in t.parameters.values():
        key = part_of(p.name)
        counted[key] = counted.get(key, 0) + p.num_elements * p.count
    built = {}
    for found, p in on_meta(name).named_parameters():
        for ours, its in OURS.items():
            found = its + found[len(ours) :] if found.startswith(ours) else found
        key = part_of(found)
        built[key] = built.get(key, 0) + p.numel()
    assert built == counted


def part_of(name):
    """The layer of the relation head, or the part of the detector."""
    depth = {"backbone": 2, "rpn": 1, "roi_heads.box": 2}
    for beginning, count in depth.items():
        if name.startswith(beginning):
            return ".".join(name.split(".")[:count])
    return name


def test_the_presets_differ_in_the_way_to_the_distances_alone():
    published, rewritten = (find_model(name).config for name in PRESETS[:2])
    assert replace(published, distance="algebraic") == rewritten != published


# Inputs and outputs.


def tiny(**changes):
    sizes = {"num_boxes_per_image": 5, "num_pairs_per_image": 8}
    return replace(find_model("pe-net-tiny").config, **sizes | changes)


def built(config):
    model = module.build(config, torch.float32, None).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("roi_heads.relation."))
    return model


def batch(config, **changes):
    made = module.make_batch(config, Batch(size=2, image_size=64), torch.float32)
    return made | changes


@pytest.mark.parametrize("distance", ["expanded", "algebraic"])
def test_both_ways_to_the_distances_train_alike(distance):
    config = tiny(dropout=0.0)
    model = built(config)
    tensors = batch(config)
    losses, gradients = [], []
    for way in ("expanded", distance):
        model.roi_heads["relation"].predictor.config = replace(config, distance=way)
        model.zero_grad()
        loss = model(**tensors).loss
        loss.backward()
        losses.append(loss.detach())
        gradients.append(
            model.roi_heads["relation"].predictor.project_head.layers[1].weight.grad
        )
    assert torch.allclose(*losses, rtol=1e-4)
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mode", ["predcls", "sgcls", "sgdet"])
@torch.no_grad()
def test_without_predicates_each_task_predicts(mode):
    config = tiny(mode=mode)
    found = built(config).eval()(**batch(config, predicates=None))
    assert found.relation_logits.shape == (2 * 8, config.num_predicate_classes)
    assert found.object_logits.shape == (2 * 5, config.num_object_classes)
    assert found.labels.shape == (2 * 5,)
    assert "loss" not in found


@torch.no_grad()
def test_given_classes_stay_as_they_are():
    config = tiny()
    tensors = batch(config, predicates=None)
    found = built(config).eval()(**tensors)
    assert torch.equal(found.labels, torch.cat(tensors["labels"]))
    assert torch.equal(found.object_logits.argmax(dim=1), found.labels)


@pytest.mark.parametrize(("mode", "knows"), [("predcls", True), ("sgcls", False)])
@torch.no_grad()
def test_only_predcls_is_told_the_classes(mode, knows):
    config = tiny(mode=mode)
    model = built(config).eval()
    tensors = batch(config, predicates=None)
    others = [(labels + 1) % config.num_object_classes for labels in tensors["labels"]]
    first = model(**tensors).relation_logits
    second = model(**tensors | {"labels": others}).relation_logits
    assert torch.allclose(first, second) == (not knows)


@torch.no_grad()
def test_a_picture_is_judged_alike_in_any_batch():
    config = tiny()
    model = built(config).eval()
    both = batch(config, predicates=None, image_sizes=[(48, 80), (32, 96)])
    one = {
        name: value[:1]
        for name, value in both.items()
        if name not in ("levels", "predicates")
    }
    # Boxes 0 to 4 are of the first picture.
    one["levels"] = [level[level < 5] for level in both["levels"]]
    found = model(**both).relation_logits[:8]
    assert torch.allclose(found, model(**one).relation_logits, atol=1e-4)


@torch.no_grad()
def test_a_picture_may_have_no_pair():
    config = tiny()
    tensors = batch(config, predicates=None)
    tensors["pairs"][0] = torch.zeros(0, 2, dtype=torch.int64)
    assert len(built(config).eval()(**tensors).relation_logits) == 8


def test_the_total_is_the_plain_sum_of_the_losses():
    config = tiny(mode="sgcls")
    model, parts = built(config), {}
    relation = model.roi_heads["relation"]
    relation.register_forward_hook(lambda m, args, found: parts.update(found))
    loss = model(**batch(config)).loss
    names = {"loss_rel", "loss_refine_obj", "l21_loss", "dist_loss2", "loss_dis"}
    assert set(parts) == names
    assert float(loss.detach()) == pytest.approx(
        sum(float(part.detach()) for part in parts.values()), rel=1e-5
    )


# The predictor, by hand.


@pytest.fixture
def predictor():
    config = tiny(mlp_dim=4, mlp_head_dim=8, embed_dim=3)
    return PrototypeEmbeddingNetwork(config).eval()


@torch.no_grad()
def test_subject_and_object_are_fused_as_published(predictor):
    rois, classes = torch.randn(2, 8), torch.tensor([1, 2])
    found = predictor.subjects_and_objects(rois, classes, [torch.tensor([[0, 1]])], [2])

    p = predictor
    first, second = p.post_emb(rois).view(2, 2, 4)
    x_s, x_o = first[1], second[0]  # index 1 is the subject's half, 0 the object's
    words = p.obj_embed(classes)
    semantic_s, semantic_o = p.W_sub(words[0]), p.W_obj(words[1])
    gates = [
        torch.sigmoid(gate(torch.cat([semantic, p.vis2sem(x)])))
        for gate, semantic, x in (
            (p.gate_sub, semantic_s, x_s),
            (p.gate_obj, semantic_o, x_o),
        )
    ]
    s = semantic_s + gates[0] * p.vis2sem(x_s)
    o = semantic_o + gates[1] * p.vis2sem(x_o)
    s = p.norm_sub(torch.relu(p.linear_sub(s)) + s)
    o = p.norm_obj(torch.relu(p.linear_obj(o)) + o)
    assert torch.allclose(found[0], torch.relu(s + o) - (s - o) ** 2, atol=1e-6)


@torch.no_grad()
def test_a_pair_is_its_fusion_less_what_the_union_gates(predictor):
    fused, union = torch.randn(3, 4), torch.randn(3, 8)
    found = predictor.pair_representations(fused, union)
    p = predictor
    seen = p.vis2sem(p.down_samp(union))
    r = fused - torch.sigmoid(p.gate_pred(torch.cat([fused, seen], dim=1))) * seen
    r = p.norm_rel_rep(torch.relu(p.linear_rel_rep(r)) + r)
    assert torch.allclose(found, p.project_head(torch.relu(r)), atol=1e-6)


@torch.no_grad()
def test_logits_are_cosines_by_a_temperature_of_seven_hundredths(predictor):
    assert float(predictor.logit_scale.exp()) == pytest.approx(1 / 0.07)
    rois, boxes = torch.randn(2, 8), [torch.tensor([[0.0, 0, 9, 9], [5, 5, 30, 20]])]
    pairs, labels = [torch.tensor([[0, 1]])], [torch.tensor([1, 2])]
    found = predictor(
        boxes, labels, [], pairs, None, rois, torch.ones(1, 8), [(40, 60)]
    )[2]
    assert found.abs().max() <= 1 / 0.07 + 1e-4
    p = predictor
    r = p.pair_representations(
        p.subjects_and_objects(rois, labels[0], pairs, [2]), torch.ones(1, 8)
    )
    prototypes = p.project_head(torch.relu(p.W_pred(p.rel_embed.weight)))
    cosines = torch.cosine_similarity(r, prototypes)
    assert torch.allclose(found[0], cosines / 0.07, atol=1e-4)


def test_the_similarity_loss_of_known_prototypes():
    # Rows of S: (1, 0, 0.6), (0, 1, 0.8), (0.6, 0.8, 1).
    prototypes = torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8]], requires_grad=True)
    norms = [math.sqrt(1 + 0.36), math.sqrt(1 + 0.64), math.sqrt(0.36 + 0.64 + 1)]
    loss = similarity_loss(prototypes)
    assert float(loss.detach()) == pytest.approx(sum(norms) / 9)
    loss.backward()
    assert prototypes.grad is not None


def test_the_spread_loss_of_known_prototypes():
    # Nearest others at squares of 1, 1 and 4: 6, 6 and 3 are missing to 7.
    prototypes = torch.tensor([[0.0, 0], [1, 0], [1, 2]], requires_grad=True)
    loss = spread_loss(prototypes)
    assert float(loss.detach()) == pytest.approx((6 + 6 + 3) / 3)
    loss.backward()
    assert torch.isfinite(prototypes.grad).all()


@pytest.mark.parametrize("distance", ["expanded", "algebraic"])
def test_the_distance_loss_of_known_prototypes(distance):
    # Prototypes at 0, 1, ..., 11 on a line.
    prototypes = torch.arange(12.0)[:, None]
    pairs, own = torch.tensor([[0.0], [3.0]]), torch.tensor([0, 1])
    # The first lies on its prototype: the ten nearest others are 1, 4, ..., 100 away.
    first = 0 - sum(i * i for i in range(1, 11)) / 10 + 1
    # The second is 4 from its own; others are 0, 1, 1, 4, 9, 9, 16, 25, 36, 49 away.
    second = 4 - (0 + 1 + 1 + 4 + 9 + 9 + 16 + 25 + 36 + 49) / 10 + 1
    assert (first, second) == (-37.5, -10)
    config = tiny(distance=distance)
    assert float(distance_loss(pairs, prototypes, own, config)) == 0
    # Were its own the last but one, 49 away, the loss is what remains.
    own = torch.tensor([0, 10])
    others = [0, 1, 1, 4, 4, 9, 9, 16, 25, 36]
    expected = 49 - sum(others) / 10 + 1
    found = distance_loss(pairs, prototypes, own, config)
    assert float(found) == pytest.approx(expected / 2)


def test_a_given_class_is_a_thousand_against_minus_a_thousand():
    logits = one_hot_logits(torch.tensor([2]), 4)
    assert logits.tolist() == [[-1000, -1000, 1000, -1000]]


def test_boxes_are_told_relative_to_their_picture():
    found = box_info([torch.tensor([[10.0, 20, 29, 59]])], [(100, 200)])
    w, h = 20, 40
    expected = [w / 200, h / 100, 20 / 200, 40 / 100]
    expected += [10 / 200, 20 / 100, 29 / 200, 59 / 100, w * h / (100 * 200)]
    assert found[0].tolist() == pytest.approx(expected)


def test_of_boxes_that_are_the_same_one_alone_is_of_a_class():
    logits = torch.tensor([[0.0, 3, 1], [0, 2, 1], [0, 2, 1]])
    same, apart = [0.0, 0, 9, 9], [50.0, 0, 59, 9]
    boxes = torch.tensor([3 * [same], 3 * [same], 3 * [apart]])
    assert choose_classes(logits, boxes).tolist() == [1, 2, 1]
