"""The systems' own modules compute what their papers say."""

import pytest

from memplan.formulas.setting import Batch
from memplan.models import find_model

torch = pytest.importorskip("torch", reason="modules need torch")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


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
