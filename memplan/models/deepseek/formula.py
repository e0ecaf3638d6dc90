"""DeepSeek's forward pass, as in transformers' `modeling_deepseek_v2.py` and `_v3.py`.

Letters: B batch, L sequence length, T = B * L tokens, D hidden size, E experts.
"""

from dataclasses import dataclass

from memplan.formulas.attention import causal_mask
from memplan.formulas.decoder import gated_mlp, predict
from memplan.formulas.experts import best, experts, normalized
from memplan.formulas.layers import add, cast, rms_norm, scale, token_embedding
from memplan.formulas.linear import matmul_weight
from memplan.formulas.plain_attention import softmax
from memplan.formulas.setting import Batch
from memplan.formulas.stacks import repeat_kinds
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.deepseek.attention import latent_attention
from memplan.models.deepseek.config import DeepseekConfig


def forward(t: Tape, config: DeepseekConfig, batch: Batch) -> Tensor:
    """`DeepseekV3ForCausalLM.forward` with labels: the loss."""
    with t.scope("model"):
        with t.scope("embed_tokens"):
            table = t.weight(
                "weight",
                (config.vocab_size, config.hidden_size),
                is_tied=config.tie_word_embeddings,
            )
        inputs_embeds = token_embedding(t, table, (batch.size, batch.seq_len))
        hidden_states = decoder(t, config, inputs_embeds)
    del inputs_embeds
    shared = table if config.tie_word_embeddings else None
    return predict(t, batch, hidden_states, config.vocab_size, table=shared)


def decoder(t: Tape, config: DeepseekConfig, inputs_embeds: Tensor) -> Tensor:
    """`DeepseekV3Model.forward` from the embeddings on."""
    B, L, _ = inputs_embeds.shape
    dtype = inputs_embeds.dtype
    positions = t.tensor((1, L), "int64")
    mask = causal_mask(t, (B, L, L), dtype)
    R = config.qk_rope_head_dim
    if config.is_v3:
        tables = tuple(t.tensor((1, 1, L, R), dtype) for _ in range(2))
    else:
        tables = (t.tensor((1, L, R), "fp32"),)  # as complex numbers
    dense, sparse = (
        DecoderLayer(config, mask, positions, tables, is_sparse)
        for is_sparse in (False, True)
    )
    num_dense = min(config.first_k_dense_replace, config.num_hidden_layers)
    layers = [dense] * num_dense + [sparse] * (config.num_hidden_layers - num_dense)
    hidden_states = t.view(inputs_embeds, inputs_embeds.shape)
    hidden_states = repeat_kinds(t, "layers", layers, hidden_states)
    return rms_norm(t, "norm", hidden_states)


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """`DeepseekV3DecoderLayer`."""

    config: DeepseekConfig
    mask: Tensor | None
    positions: Tensor
    """An argument of the layer, which a checkpoint of it holds too."""
    tables: tuple[Tensor, ...]
    is_sparse: bool

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        config = self.config
        residual = x
        hidden_states = rms_norm(t, "input_layernorm", x)
        hidden_states = latent_attention(
            t, config, hidden_states, self.mask, self.tables
        )
        hidden_states = add(t, residual, hidden_states)

        residual = hidden_states
        hidden_states = rms_norm(t, "post_attention_layernorm", hidden_states)
        if self.is_sparse:
            hidden_states = sparse_block(t, config, hidden_states)
        else:
            hidden_states = mlp(t, config, hidden_states, config.intermediate_size)
        return add(t, residual, hidden_states)


def mlp(
    t: Tape, config: DeepseekConfig, x: Tensor, inner_size: int, name: str = "mlp"
) -> Tensor:
    """`DeepseekV3MLP`."""
    bias = config.mlp_bias and not config.is_v3
    return gated_mlp(t, x, inner_size, config.hidden_act, bias=bias, name=name)


def sparse_block(t: Tape, config: DeepseekConfig, x: Tensor) -> Tensor:
    """`DeepseekV3MoE`: the experts of each token, and those that all share."""
    B, L, D = x.shape
    with t.scope("mlp"):
        hidden_states = t.view(x, (B * L, D))
        _, topk_weights = route(t, config, hidden_states)
        hidden_states = experts(
            t,
            hidden_states,
            topk_weights,
            num_experts=config.n_routed_experts,
            inner_size=config.moe_intermediate_size,
            hidden_act=config.hidden_act,
        )
        hidden_states = t.view(hidden_states, (B, L, D))
        shared_size = config.moe_intermediate_size * config.n_shared_experts
        shared = mlp(t, config, x, shared_size, "shared_experts")
        return add(t, hidden_states, shared)


def route(t: Tape, config: DeepseekConfig, x: Tensor) -> tuple[Tensor, Tensor]:
    """`DeepseekV3TopkRouter`: all logits, and the weights of the best.

    What limits the choice to groups of experts is computed on the side.
    """
    with t.scope("gate"):
        E = config.n_routed_experts
        weight = t.weight("weight", (E, config.hidden_size))
        router_logits = matmul_weight(t, cast(t, x, "fp32"), weight, E, None)
        if not config.is_v3:
            scores = softmax(t, router_logits, in_fp32=True)
            return router_logits, scale(t, best(t, scores, config.num_experts_per_tok))
        scores = t.apply(
            "sigmoid",
            (router_logits,),
            router_logits.shape,
            router_logits.dtype,
            saves_output=True,
        )
        weights = best(t, scores, config.num_experts_per_tok)
        if config.norm_topk_prob:
            weights = normalized(t, weights)
        return router_logits, scale(t, weights)
