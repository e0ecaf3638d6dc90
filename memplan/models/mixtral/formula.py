"""Mixtral's forward pass, in the shape of transformers' `modeling_mixtral.py`.

Letters: B batch, L sequence length, T = B * L tokens, D hidden size, E experts.
"""

from functools import partial

from memplan.formulas.decoder import predict
from memplan.formulas.experts import best, experts, normalized
from memplan.formulas.layers import cast, token_embedding
from memplan.formulas.linear import matmul_weight
from memplan.formulas.plain_attention import softmax
from memplan.formulas.setting import Batch
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.llama.formula import decoder
from memplan.models.mixtral.config import MixtralConfig


def forward(t: Tape, config: MixtralConfig, batch: Batch) -> Tensor:
    """`MixtralForCausalLM.forward` with labels: the loss."""
    with t.scope("model.embed_tokens"):
        table = t.weight(
            "weight",
            (config.vocab_size, config.hidden_size),
            is_tied=config.tie_word_embeddings,
        )
    inputs_embeds = token_embedding(t, table, (batch.size, batch.seq_len))
    hidden_states = decoder(
        t,
        config.language,
        inputs_embeds,
        batch.seq_len,
        feed_forward=partial(sparse_block, config),
    )
    del inputs_embeds
    shared = table if config.tie_word_embeddings else None
    return predict(t, batch, hidden_states, config.vocab_size, table=shared)


def sparse_block(config: MixtralConfig, t: Tape, x: Tensor) -> Tensor:
    """`MixtralSparseMoeBlock`: [B, L, D] in and out."""
    B, L, D = x.shape
    with t.scope("mlp"):
        hidden_states = t.view(x, (B * L, D))
        router_logits, top_k_weights = route(t, config, hidden_states)
        hidden_states = experts(
            t,
            hidden_states,
            top_k_weights,
            num_experts=config.num_local_experts,
            inner_size=config.intermediate_size,
            hidden_act=config.hidden_act,
        )
        del router_logits
        return t.view(hidden_states, (B, L, D))


def route(t: Tape, config: MixtralConfig, x: Tensor) -> tuple[Tensor, Tensor]:
    """`MixtralTopKRouter`: all logits, and the weights of the best, in fp32."""
    with t.scope("gate"):
        E = config.num_local_experts
        weight = t.weight("weight", (E, config.hidden_size))
        router_logits = matmul_weight(t, x, weight, E, None)
        probabilities = softmax(t, cast(t, router_logits, "fp32"), in_fp32=True)
        top = best(t, probabilities, config.num_experts_per_tok)
        return router_logits, normalized(t, top)
