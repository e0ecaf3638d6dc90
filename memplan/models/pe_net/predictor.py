"""`PrototypeEmbeddingNetwork`: entities and pairs in one space with the prototypes.

In the shape of the published `relation_head/roi_relation_predictors.py`.

Letters: N boxes and P pairs of all images together, K predicate classes, D = mlp_dim.
"""

from dataclasses import dataclass

from memplan.formulas.convolution import (
    batch_norm,
    divide_rows,
    gather_rows,
    norm,
    relu,
    relu_in_place,
    square,
    subtract,
)
from memplan.formulas.layers import (
    activation,
    add,
    concatenate,
    copy,
    dropout,
    embedding,
    lower,
    multiply,
    part,
    upper,
)
from memplan.formulas.linear import linear
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.pe_net.config import PENetConfig
from memplan.models.pe_net.losses import prototype_losses
from memplan.models.pe_net.modules import (
    LayerNorm,
    Linear,
    Mlp,
    VisualToSemantic,
    make_layer_norm,
    make_linear,
    make_mlp,
    make_vis2sem,
)

BOX_INFO_SIZE = 9
BOX_HIDDEN_SIZE = 32
BOX_EMBED_SIZE = 128


@dataclass(frozen=True, slots=True)
class PairModules:
    """What every image passes through in turn."""

    to_subject: Mlp
    to_object: Mlp
    gate_sub: Linear
    gate_obj: Linear
    linear_sub: Linear
    linear_obj: Linear
    norm_sub: LayerNorm
    norm_obj: LayerNorm
    vis2sem: VisualToSemantic


def predict(
    t: Tape,
    config: PENetConfig,
    batch_size: int,
    num_pairs_per_image: int,
    roi_features: Tensor,
    union: Tensor,
    *,
    has_labels: bool,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """`forward`: logits of objects and of pairs, and the losses on the prototypes.

    All images but the last are counted as one, then the last alone: what they save is
    their sum either way, and the names of the loop hold the last when it ends.
    """
    D, E, p = config.mlp_dim, config.embed_dim, config.dropout
    P = batch_size * num_pairs_per_image
    modules = pair_modules(t, config)
    entity_dists = refine_object_labels(t, config, roi_features)
    entity_rep = linear(t, "post_emb", roi_features, 2 * D)
    sub_rep = copy(t, part(t, entity_rep, (entity_rep.shape[0], D)))
    obj_rep = copy(t, part(t, entity_rep, (entity_rep.shape[0], D)))
    with t.scope("obj_embed"):
        table = t.weight("weight", (config.num_object_classes, E))
    entity_embeds = embedding(t, table, (entity_rep.shape[0],))

    groups = [count for count in (batch_size - 1, 1) if count]
    boxes = [count * config.num_boxes_per_image for count in groups]
    sub_reps = t.split(sub_rep, [(count, D) for count in boxes])
    obj_reps = t.split(obj_rep, [(count, D) for count in boxes])
    embeds = t.split(entity_embeds, [(count, E) for count in boxes])
    fusions = []
    for count, sub_rep, obj_rep, embed in zip(
        groups, sub_reps, obj_reps, embeds, strict=True
    ):
        rows = count * num_pairs_per_image
        s_embed = modules.to_subject(t, gather_rows(t, embed, rows))
        o_embed = modules.to_object(t, gather_rows(t, embed, rows))
        sem_sub = modules.vis2sem(t, gather_rows(t, sub_rep, rows))
        sem_obj = modules.vis2sem(t, gather_rows(t, obj_rep, rows))
        gate_sem_sub = gate(t, modules.gate_sub, s_embed, sem_sub)
        gate_sem_obj = gate(t, modules.gate_obj, o_embed, sem_obj)
        sub = add(t, s_embed, multiply(t, sem_sub, gate_sem_sub))
        obj = add(t, o_embed, multiply(t, sem_obj, gate_sem_obj))
        sub = converge(t, modules.linear_sub, modules.norm_sub, sub, p)
        obj = converge(t, modules.linear_obj, modules.norm_obj, obj, p)
        fusions.append(fuse(t, sub, obj))
    fusion_so = concatenate(t, fusions, (P, D))
    fusions.clear()

    down_samp = make_mlp(t, "down_samp", config.mlp_head_dim, D, D)
    gate_pred = make_linear(t, "gate_pred", 2 * D, D)
    sem_pred = modules.vis2sem(t, down_samp(t, union))
    gate_sem_pred = gate(t, gate_pred, fusion_so, sem_pred)
    rel_rep = subtract(t, fusion_so, multiply(t, sem_pred, gate_sem_pred))
    with t.scope("rel_embed"):
        predicates = t.weight("weight", (config.num_predicate_classes, E))
    to_prototype = make_mlp(t, "W_pred", E, D // 2, D)
    predicate_proto = to_prototype(t, predicates)

    linear_rel_rep = make_linear(t, "linear_rel_rep", D, D)
    norm_rel_rep = make_layer_norm(t, "norm_rel_rep", D)
    rel_rep = converge(t, linear_rel_rep, norm_rel_rep, rel_rep, p)
    project_head = make_mlp(t, "project_head", D, D, 2 * D)
    rel_rep = project_head(t, dropout(t, relu(t, rel_rep), p))
    predicate_proto = project_head(t, dropout(t, relu(t, predicate_proto), p))
    make_linear(t, "linear_pred", D, D)  # made, and never used

    rel_rep_norm = divide_rows(t, rel_rep, norm(t, rel_rep, keepdim=True))
    length = norm(t, predicate_proto, keepdim=True)
    predicate_proto_norm = divide_rows(t, predicate_proto, length)
    rel_dists = cosines(t, rel_rep_norm, predicate_proto_norm)
    losses = []
    if has_labels:
        losses = prototype_losses(
            t, config, rel_rep, predicate_proto, predicate_proto_norm
        )
    return entity_dists, rel_dists, losses


def pair_modules(t: Tape, config: PENetConfig) -> PairModules:
    """Declare what the loop over images uses."""
    D, E = config.mlp_dim, config.embed_dim
    return PairModules(
        to_subject=make_mlp(t, "W_sub", E, D // 2, D),
        to_object=make_mlp(t, "W_obj", E, D // 2, D),
        gate_sub=make_linear(t, "gate_sub", 2 * D, D),
        gate_obj=make_linear(t, "gate_obj", 2 * D, D),
        linear_sub=make_linear(t, "linear_sub", D, D),
        linear_obj=make_linear(t, "linear_obj", D, D),
        norm_sub=make_layer_norm(t, "norm_sub", D),
        norm_obj=make_layer_norm(t, "norm_obj", D),
        vis2sem=make_vis2sem(t, D, config.dropout),
    )


def gate(t: Tape, linear: Linear, x: Tensor, y: Tensor) -> Tensor:
    """`sigmoid(linear(cat((x, y), dim=-1)))`: saves both inputs joined, and itself.

    Autocast joins in the wider dtype.
    """
    if x.dtype != y.dtype:
        x, y = upper(t, x), upper(t, y)
    joined = concatenate(t, [x, y], (x.shape[0], 2 * x.shape[1]))
    return activation(t, "sigmoid", linear(t, joined))


def converge(
    t: Tape, linear: Linear, norm: LayerNorm, x: Tensor, probability: float
) -> Tensor:
    """`norm(dropout(relu(linear(x))) + x)`."""
    return norm(t, add(t, dropout(t, relu(t, linear(t, x)), probability), x))


def fuse(t: Tape, x: Tensor, y: Tensor) -> Tensor:
    """F(x, y) = relu(x + y) - (x - y)**2: saves the ReLU's output and x - y."""
    return subtract(t, relu(t, add(t, x, y)), square(t, subtract(t, x, y)))


def cosines(t: Tape, pairs: Tensor, prototypes: Tensor) -> Tensor:
    """`pairs @ prototypes.t() * logit_scale.exp()`: saves all factors."""
    first, second = lower(t, pairs), lower(t, prototypes)
    similarities = t.apply(
        "mm",
        (first, second),
        (pairs.shape[0], prototypes.shape[0]),
        first.dtype,
        saved=(first, second),
    )
    logit_scale = t.weight("logit_scale", ())
    scale = t.apply("exp", (logit_scale,), (), logit_scale.dtype, saves_output=True)
    return t.apply(
        "mul",
        (similarities, scale),
        similarities.shape,
        similarities.dtype,
        saved=(similarities, scale),
        backward_scratch_bytes=similarities.num_bytes,
    )


def refine_object_labels(t: Tape, config: PENetConfig, roi_features: Tensor) -> Tensor:
    """`refine_obj_labels`: class logits of each box.

    In predcls the classes are given: the layers run, their result is thrown away, and
    what they saved with it. They never get a gradient.
    """
    num_boxes = roi_features.shape[0]
    if config.mode != "predcls":
        return object_logits(t, config, roi_features)
    with t.no_grad():
        joined = object_features(t, config, roi_features)
        linear(t, "lin_obj_cyx", joined, config.context_hidden_dim)
    with t.scope("out_obj"):
        t.weight("weight", (config.num_object_classes, config.context_hidden_dim))
        t.weight("bias", (config.num_object_classes,))
    return t.tensor((num_boxes, config.num_object_classes), "fp32")


def object_logits(t: Tape, config: PENetConfig, roi_features: Tensor) -> Tensor:
    """Two linear layers on the features, the class and the place of a box."""
    joined = object_features(t, config, roi_features)
    hidden = linear(t, "lin_obj_cyx", joined, config.context_hidden_dim)
    return linear(t, "out_obj", hidden, config.num_object_classes)


def object_features(t: Tape, config: PENetConfig, roi_features: Tensor) -> Tensor:
    """`cat([roi_features, obj_embed, pos_embed], -1)`."""
    num_boxes, E = roi_features.shape[0], config.embed_dim
    pos_embed = box_embedding(t, num_boxes)
    with t.scope("obj_embed1"):
        table = t.weight("weight", (config.num_object_classes, E))
    if config.mode == "predcls":
        obj_embed = embedding(t, table, (num_boxes,))
    else:
        shares = t.tensor((num_boxes, config.num_object_classes), "fp32")
        used = lower(t, table)
        obj_embed = t.apply(
            "mm", (used,), (num_boxes, E), used.dtype, saved=(lower(t, shares),)
        )
    parts = [roi_features, obj_embed, pos_embed]
    if len({x.dtype for x in parts}) > 1:
        parts = [upper(t, x) for x in parts]
    width = sum(x.shape[-1] for x in parts)
    return concatenate(t, parts, (num_boxes, width))


def box_embedding(t: Tape, num_boxes: int) -> Tensor:
    """`pos_embed` of 9 numbers a box: linear, batch norm, linear, ReLU in place."""
    box_info = t.tensor((num_boxes, BOX_INFO_SIZE), "fp32")
    with t.scope("pos_embed"):
        x = linear(t, "0", box_info, BOX_HIDDEN_SIZE)
        x = batch_norm(t, "1", x)
        x = linear(t, "2", x, BOX_EMBED_SIZE)
        return relu_in_place(t, x)
