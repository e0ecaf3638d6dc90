"""The systems' own modules compute what their papers say."""

import pytest

from memplan.formulas.setting import Batch
from memplan.models import find_model

torch = pytest.importorskip("torch", reason="modules need torch")
pytest.importorskip("transformers", reason="their towers are transformers'")

from memplan.models.flamingo import module as flamingo  # noqa: E402
from memplan.models.flamingo.chinchilla import Chinchilla, RelativeAttention  # noqa: E402
from memplan.models.flamingo.config import LanguageConfig  # noqa: E402

LANGUAGE = LanguageConfig(
    model_type="chinchilla",
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    vocab_size=50,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def tiny(name):
    config = find_model(name).config
    return config, flamingo.build(config, torch.float32, None).eval()


def batch(config, **sizes):
    sizes = {"size": 2, "seq_len": 12, "images_per_sample": 2} | sizes
    return flamingo.make_batch(
        config, Batch(image_size=config.image_size, **sizes), torch.float32
    )


def open_gates(model):
    for layer in model.layers:
        block = layer.gated_cross_attn_layer
        if block is not None:
            torch.nn.init.constant_(block.attn_gate, 1.0)
            torch.nn.init.constant_(block.ff_gate, 1.0)


@torch.no_grad()
def test_a_chinchilla_sees_nothing_ahead():
    model = Chinchilla(LANGUAGE)
    ids = torch.randint(0, 50, (1, 8))
    other = ids.clone()
    other[0, 5] = (ids[0, 5] + 1) % 50
    first, second = model(ids).logits, model(other).logits
    assert torch.allclose(first[0, :5], second[0, :5], atol=1e-6)
    assert not torch.allclose(first[0, 5:], second[0, 5:], atol=1e-6)


@torch.no_grad()
def test_relative_scores_are_those_of_each_distance():
    attention = RelativeAttention(LANGUAGE)
    L, H, K = 5, 2, 8
    x, positions = torch.randn(1, L, 16), torch.randn(1, L, 16)
    places = torch.arange(L)
    found = attention(x, positions, places[:, None] - places)

    def heads(layer, tensor):
        return layer(tensor).view(L, H, K)

    query, key = heads(attention.query, x), heads(attention.key, x)
    value, far = heads(attention.value, x), heads(attention.relative, positions)
    expected = torch.zeros(L, H, K)
    for i in range(L):
        for h in range(H):
            scores = torch.stack(
                [query[i, h] @ (key[j, h] + far[i - j, h]) for j in range(i + 1)]
            )
            weights = (scores * K**-0.5).softmax(0)
            expected[i, h] = sum(weights[j] * value[j, h] for j in range(i + 1))
    expected = attention.output(expected.view(1, L, H * K))
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["openflamingo-tiny", "flamingo-tiny"])
@torch.no_grad()
def test_shut_gates_leave_the_language_model_as_it_was(name):
    config, model = tiny(name)
    tensors = batch(config)
    with_pictures = model(tensors["vision_x"], tensors["lang_x"]).logits
    without = model(torch.zeros_like(tensors["vision_x"]), tensors["lang_x"]).logits
    assert torch.equal(with_pictures, without)


@pytest.mark.parametrize("name", ["openflamingo-tiny", "flamingo-tiny"])
@torch.no_grad()
def test_a_text_token_sees_the_picture_before_it_alone(name):
    config, model = tiny(name)
    open_gates(model)
    lang_x = torch.randint(0, 100, (1, 12))
    lang_x[0, [2, 7]] = config.text_config.vocab_size - 1
    vision_x = torch.randn(1, 2, 1, 3, config.image_size, config.image_size)
    changed = vision_x.clone()
    changed[0, 1] += 1.0
    first, second = model(vision_x, lang_x).logits, model(changed, lang_x).logits
    assert torch.allclose(first[0, :7], second[0, :7], atol=1e-5)
    assert not torch.allclose(first[0, 7:], second[0, 7:], atol=1e-5)
    # Nothing before the first picture sees any.
    changed[0, 0] += 1.0
    third = model(changed, lang_x).logits
    assert torch.allclose(first[0, :2], third[0, :2], atol=1e-5)
    assert not torch.allclose(first[0, 2:7], third[0, 2:7], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "places"),
    [("openflamingo-tiny", [False, True] * 2), ("flamingo-tiny", [True, False] * 2)],
)
def test_blocks_stand_where_each_model_has_them(name, places):
    _, model = tiny(name)
    found = [layer.gated_cross_attn_layer is not None for layer in model.layers]
    assert found == places


def test_checkpoints_are_counted_over_all_modules_in_their_order():
    _, model = tiny("openflamingo-tiny")
    model.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=3)
    marks = [m.gradient_checkpointing for m in model.checkpointed_in_order()]
    assert marks == [index % 3 == 0 for index in range(7)]


def test_a_batch_of_flamingo_marks_its_pictures_and_trains_on_the_text_alone():
    config = find_model("openflamingo-tiny").config
    tensors = batch(config, images_per_sample=3)
    media = config.text_config.vocab_size - 1
    assert (tensors["lang_x"] == media).sum(dim=1).tolist() == [3, 3]
    assert torch.equal(tensors["labels"] == -100, tensors["lang_x"] == media)


class TestPENet:
    @pytest.fixture(autouse=True)
    def torchvision(self):
        pytest.importorskip("torchvision")

    def config(self, **changes):
        from dataclasses import replace

        return replace(find_model("pe-net-tiny").config, **changes)

    @torch.no_grad()
    def test_both_ways_to_the_distances_give_one_loss(self):
        from memplan.models.pe_net.prototypes import distance_loss

        pairs, prototypes = torch.randn(20, 8), torch.randn(51, 8)
        predicates = torch.randint(0, 51, (20,))
        losses = [
            distance_loss(pairs, prototypes, predicates, self.config(distance=way))
            for way in ("expanded", "algebraic")
        ]
        assert losses[0] > 0
        assert torch.allclose(losses[0], losses[1], rtol=1e-4)

    @torch.no_grad()
    def test_the_distance_loss_is_that_of_the_paper(self):
        from memplan.models.pe_net.prototypes import distance_loss

        pairs, prototypes = torch.randn(3, 8), torch.randn(51, 8)
        predicates = torch.tensor([4, 0, 50])
        expected = []
        for pair, own in zip(pairs, predicates.tolist(), strict=True):
            squares = [float((pair - c).norm() ** 2) for c in prototypes]
            others = sorted(d for i, d in enumerate(squares) if i != own)[:10]
            expected.append(max(0.0, squares[own] - sum(others) / 10 + 1.0))
        found = distance_loss(pairs, prototypes, predicates, self.config())
        assert float(found) == pytest.approx(sum(expected) / 3, rel=1e-4)

    @torch.no_grad()
    def test_the_spread_loss_asks_for_a_margin_to_the_nearest_other(self):
        from memplan.models.pe_net.prototypes import spread_loss

        near = torch.zeros(4, 2)
        near[1, 0], near[2, 0], near[3, 0] = 1.0, 10.0, 12.0
        # Squares of the distances to the nearest other: 1, 1, 4, 4; the margin is 7.
        assert float(spread_loss(near)) == pytest.approx((6 + 6 + 3 + 3) / 4)

    def test_rectangles_mark_the_boxes(self):
        from memplan.models.pe_net.relation_head import UnionFeatures

        union = UnionFeatures(self.config())
        side = union.rect_size
        whole = torch.tensor([[0.0, 0.0, 320.0, 192.0]])
        left = torch.tensor([[0.0, 0.0, 160.0, 192.0]])
        assert union.rectangle(whole, (192, 320)).sum() == side * side
        marked = union.rectangle(left, (192, 320))
        assert marked[0, :, : side // 2 + 1].all()
        assert not marked[0, :, side // 2 + 2 :].any()

    @pytest.mark.slow
    @pytest.mark.parametrize("mode", ["predcls", "sgcls", "sgdet"])
    def test_each_mode_gives_a_loss_that_reaches_the_relation_head(self, mode):
        from memplan.models.pe_net import module

        config = self.config(mode=mode)
        model = module.build(config, torch.float32, None).train()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("roi_heads.relation."))
        sizes = Batch(size=2, image_size=64)
        loss = model(**module.make_batch(config, sizes, torch.float32)).loss
        loss.backward()
        with_gradient = {n for n, p in model.named_parameters() if p.grad is not None}
        assert torch.isfinite(loss)
        assert "roi_heads.relation.predictor.rel_embed.weight" in with_gradient
        assert "roi_heads.relation.box_feature_extractor.fc6.weight" in with_gradient
        # Given classes need no refinement.
        refines = "roi_heads.relation.predictor.out_obj.weight" in with_gradient
        assert refines == (mode != "predcls")
