"""PE-Net's predictor: pairs and predicates as points of one space, and their losses.

As `PrototypeEmbeddingNetwork` of `roi_relation_predictors.py` of the published code
(Zheng et al., CVPR 2023). Letters: N boxes, P pairs, K predicate classes.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from memplan.models.pe_net.config import PENetConfig
from memplan.models.pe_net.suppression import assign_classes, box_overlaps

Sides = tuple[int, int]
"""Height and width of a picture."""
TEMPERATURE = 0.07
NUM_NEAREST = 10
"""Prototypes that a pair shall be farther from than from its own (k1)."""
PAIR_MARGIN = 1.0
PROTOTYPE_MARGIN = 7.0
CLASS_OVERLAP = 0.5
"""From here on two detected boxes are one, and shall not have the same class."""
ONE_HOT = 1000.0
"""A given class as logits: so much, and the others so much below zero."""
BOX_INFO = 9
"""Numbers that say where a box is and how large."""


class Mlp(nn.Module):
    """Two linear layers with a ReLU between."""

    def __init__(self, in_features: int, hidden_size: int, out_features: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(in_features, hidden_size), nn.Linear(hidden_size, out_features)]
        )

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.layers[0](x))
        x = self.layers[1](x)
        return x


class PrototypeEmbeddingNetwork(nn.Module):
    """Matches the representation of each pair to the prototypes of the predicates."""

    def __init__(self, config: PENetConfig) -> None:
        super().__init__()
        D, features, p = config.mlp_dim, config.mlp_head_dim, config.dropout
        words, classes = config.embed_dim, config.num_object_classes
        self.config = config
        self.post_emb = nn.Linear(features, 2 * D)
        self.obj_embed = nn.Embedding(classes, words)
        self.rel_embed = nn.Embedding(config.num_predicate_classes, words)
        self.W_sub = Mlp(words, D // 2, D)
        self.W_obj = Mlp(words, D // 2, D)
        self.W_pred = Mlp(words, D // 2, D)
        self.gate_sub = nn.Linear(2 * D, D)
        self.gate_obj = nn.Linear(2 * D, D)
        self.gate_pred = nn.Linear(2 * D, D)
        self.vis2sem = nn.Sequential(
            nn.Linear(D, 2 * D), nn.ReLU(True), nn.Dropout(p), nn.Linear(2 * D, D)
        )
        self.project_head = Mlp(D, D, 2 * D)
        self.linear_sub = nn.Linear(D, D)
        self.linear_obj = nn.Linear(D, D)
        self.linear_pred = nn.Linear(D, D)  # there, and unused
        self.linear_rel_rep = nn.Linear(D, D)
        self.norm_sub = nn.LayerNorm(D)
        self.norm_obj = nn.LayerNorm(D)
        self.norm_rel_rep = nn.LayerNorm(D)
        self.dropout = nn.Dropout(p)
        self.down_samp = Mlp(features, D, D)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / TEMPERATURE)))
        self.pos_embed = nn.Sequential(
            nn.Linear(BOX_INFO, 32),
            nn.BatchNorm1d(32, momentum=0.001),
            nn.Linear(32, 128),
            nn.ReLU(inplace=True),
        )
        self.obj_embed1 = nn.Embedding(classes, words)
        self.out_obj = nn.Linear(config.context_hidden_dim, classes)
        self.lin_obj_cyx = nn.Linear(features + words + 128, config.context_hidden_dim)

    def forward(
        self,
        boxes: list[Tensor],
        labels: list[Tensor],
        logits: list[Tensor],
        pairs: list[Tensor],
        predicates: list[Tensor] | None,
        roi_features: Tensor,
        union_features: Tensor,
        image_sides: list[Sides],
        class_boxes: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Logits of objects [N, classes], classes [N], logits of pairs [P, K], losses.

        `class_boxes` [boxes, classes, 4] are where each box of an image would be, were
        it of that class: in sgdet no two of the same class shall overlap.
        """
        entity_dists, entity_preds = self.refine_object_labels(
            roi_features, boxes, labels, logits, image_sides, class_boxes
        )
        fusion_so = self.subjects_and_objects(
            roi_features, entity_preds, pairs, [len(some) for some in boxes]
        )
        rel_rep = self.pair_representations(fusion_so, union_features)
        predicate_proto = self.W_pred(self.rel_embed.weight)
        predicate_proto = self.project_head(self.dropout(torch.relu(predicate_proto)))
        rel_rep_norm = rel_rep / rel_rep.norm(dim=1, keepdim=True)
        proto_norm = predicate_proto / predicate_proto.norm(dim=1, keepdim=True)
        rel_dists = rel_rep_norm @ proto_norm.t() * self.logit_scale.exp()
        losses = {}
        if self.training and predicates is not None:
            losses = {
                "l21_loss": similarity_loss(proto_norm),
                "dist_loss2": spread_loss(predicate_proto),
                "loss_dis": distance_loss(
                    rel_rep, predicate_proto, torch.cat(predicates), self.config
                ),
            }
        return entity_dists, entity_preds, rel_dists, losses

    def subjects_and_objects(
        self,
        roi_features: Tensor,
        entity_preds: Tensor,
        pairs: list[Tensor],
        num_boxes: list[int],
    ) -> Tensor:
        """F(s, o) = ReLU(s + o) - (s - o)^2 of every pair, image by image."""
        entity_rep = self.post_emb(roi_features)
        entity_rep = entity_rep.view(entity_rep.size(0), 2, self.config.mlp_dim)
        sub_rep = entity_rep[:, 1].contiguous()
        obj_rep = entity_rep[:, 0].contiguous()
        entity_embeds = self.obj_embed(entity_preds)
        fusion_so = []
        for pair, some_sub, some_obj, some_embed in zip(
            pairs,
            sub_rep.split(num_boxes),
            obj_rep.split(num_boxes),
            entity_embeds.split(num_boxes),
            strict=True,
        ):
            s_embed = self.W_sub(some_embed[pair[:, 0]])
            o_embed = self.W_obj(some_embed[pair[:, 1]])
            sem_sub = self.vis2sem(some_sub[pair[:, 0]])
            sem_obj = self.vis2sem(some_obj[pair[:, 1]])
            gate_sem_sub = torch.sigmoid(
                self.gate_sub(torch.cat((s_embed, sem_sub), dim=-1))
            )
            gate_sem_obj = torch.sigmoid(
                self.gate_obj(torch.cat((o_embed, sem_obj), dim=-1))
            )
            sub = s_embed + sem_sub * gate_sem_sub
            obj = o_embed + sem_obj * gate_sem_obj
            sub = self.norm_sub(self.dropout(torch.relu(self.linear_sub(sub))) + sub)
            obj = self.norm_obj(self.dropout(torch.relu(self.linear_obj(obj))) + obj)
            fusion_so.append(functional.relu(sub + obj) - (sub - obj) ** 2)
        return torch.cat(fusion_so)

    def pair_representations(self, fusion_so: Tensor, union_features: Tensor) -> Tensor:
        """r = F(s, o) - u_p, brought into the space of the prototypes [P, 2 D]."""
        sem_pred = self.vis2sem(self.down_samp(union_features))
        gate_sem_pred = torch.sigmoid(
            self.gate_pred(torch.cat((fusion_so, sem_pred), dim=-1))
        )
        rel_rep = fusion_so - sem_pred * gate_sem_pred
        rel_rep = self.norm_rel_rep(
            self.dropout(torch.relu(self.linear_rel_rep(rel_rep))) + rel_rep
        )
        projected: Tensor = self.project_head(self.dropout(torch.relu(rel_rep)))
        return projected

    def refine_object_labels(
        self,
        roi_features: Tensor,
        boxes: list[Tensor],
        labels: list[Tensor],
        logits: list[Tensor],
        image_sides: list[Sides],
        class_boxes: list[Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """Logits and classes of the boxes: given in predcls, else predicted again."""
        is_given = self.config.mode == "predcls"
        obj_labels = torch.cat(labels)
        if is_given:
            obj_embed = self.obj_embed1(obj_labels)
        else:
            obj_logits = torch.cat(logits).detach()
            obj_embed = functional.softmax(obj_logits, dim=1) @ self.obj_embed1.weight
        pos_embed = self.pos_embed(box_info(boxes, image_sides))
        obj_rep = self.lin_obj_cyx(torch.cat([roi_features, obj_embed, pos_embed], -1))
        if is_given:
            return one_hot_logits(
                obj_labels, self.config.num_object_classes
            ), obj_labels
        obj_dists = self.out_obj(obj_rep)
        if class_boxes is None:
            return obj_dists, obj_dists[:, 1:].argmax(dim=1) + 1
        by_image = obj_dists.split([len(some) for some in boxes])
        chosen = [
            choose_classes(some_dists, some_boxes)
            for some_dists, some_boxes in zip(by_image, class_boxes, strict=True)
        ]
        return obj_dists, torch.cat(chosen)


@torch.no_grad()
def choose_classes(obj_dists: Tensor, class_boxes: Tensor) -> Tensor:
    """`nms_per_cls`: of boxes that are the same, only the surest is of a class."""
    scores = obj_dists.softmax(dim=1)
    scores[:, 0] = -1.0

    def overlapping(row: int, column: int) -> Tensor:
        its_boxes = class_boxes[:, column]
        return box_overlaps(its_boxes[row, None], its_boxes)[0] >= CLASS_OVERLAP

    return assign_classes(scores, overlapping)


def one_hot_logits(labels: Tensor, num_classes: int) -> Tensor:
    one_hot = functional.one_hot(labels, num_classes)
    return (2.0 * one_hot - 1.0) * ONE_HOT


def box_info(boxes: list[Tensor], image_sides: list[Sides]) -> Tensor:
    """[N, 9]: width, height, centre, corners and area, relative to the picture."""
    found = []
    for some, (height, width) in zip(boxes, image_sides, strict=True):
        wh = some[:, 2:] - some[:, :2] + 1.0
        xy = some[:, :2] + 0.5 * wh
        w, h = wh.chunk(2, dim=-1)
        x, y = xy.chunk(2, dim=-1)
        x1, y1, x2, y2 = some.chunk(4, dim=-1)
        parts = [w / width, h / height, x / width, y / height]
        parts += [x1 / width, y1 / height, x2 / width, y2 / height]
        parts.append(w * h / (width * height))
        found.append(torch.cat(parts, dim=-1))
    return torch.cat(found)


def similarity_loss(proto_norm: Tensor) -> Tensor:
    """L_r_sim: prototypes shall not point the same way; |S|_{2,1} over K^2."""
    target = proto_norm.clone().detach()
    similarities = proto_norm @ target.t()
    row_norms: Tensor = torch.linalg.vector_norm(similarities, dim=1)
    return row_norms.sum() / similarities.numel()


def spread_loss(proto: Tensor) -> Tensor:
    """L_r_euc: each prototype shall be far from the nearest other one."""
    K = proto.shape[0]
    rows = proto.unsqueeze(dim=1).expand(-1, K, -1)
    columns = proto.detach().unsqueeze(dim=0).expand(K, -1, -1)
    distances = (rows - columns).norm(dim=2) ** 2
    nearest, _ = torch.sort(distances, dim=1)
    # The first is its distance to itself.
    distance = nearest[:, :2].sum(dim=1)
    return torch.relu(PROTOTYPE_MARGIN - distance).mean()


def distance_loss(
    rel_rep: Tensor, proto: Tensor, predicates: Tensor, config: PENetConfig
) -> Tensor:
    """L_e_euc: a pair shall be nearer to its prototype than to the nearest others."""
    P, K = len(rel_rep), len(proto)
    if config.distance == "expanded":
        rows = rel_rep.unsqueeze(dim=1).expand(-1, K, -1)
        columns = proto.unsqueeze(dim=0).expand(P, -1, -1)
        distances = (rows - columns).norm(dim=2) ** 2
    else:
        distances = (
            rel_rep.pow(2).sum(dim=1, keepdim=True)
            - 2 * rel_rep @ proto.t()
            + proto.pow(2).sum(dim=1)
        )
    places = torch.arange(P, device=rel_rep.device)
    mask_neg = torch.ones(P, K, device=rel_rep.device)
    mask_neg[places, predicates] = 0
    positive = distances[places, predicates]
    # The pair's own prototype, now 0, is the first of the sorted ones.
    negatives, _ = torch.sort(distances * mask_neg, dim=1)
    negative = negatives[:, : NUM_NEAREST + 1].sum(dim=1) / NUM_NEAREST
    return torch.relu(positive - negative + PAIR_MARGIN).mean()
