"""BERT's forward pass, in the shape of transformers' `modeling_bert.py`.

Letters: B batch, L sequence length, D hidden size, H heads, K size of a head,
V vocabulary, N labels.
"""

from dataclasses import dataclass

from memplan.formulas.attention import attend
from memplan.formulas.layers import (
    activation,
    add,
    dropout,
    embedding,
    layer_norm,
    part,
    token_embedding,
)
from memplan.formulas.linear import linear, matmul_weight
from memplan.formulas.loss import cross_entropy, keep_as_fp32, mean_squared_error
from memplan.formulas.setting import Batch
from memplan.formulas.stacks import repeat_layers
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor, Weight
from memplan.models.bert.config import SEQUENCE_CLASSIFICATION, BertConfig


def forward(t: Tape, config: BertConfig, batch: Batch) -> Tensor:
    """The loss of the class that the configuration names."""
    if config.architecture == SEQUENCE_CLASSIFICATION:
        return sequence_classification(t, config, batch)
    return masked_lm(t, config, batch)


def batch_bytes(config: BertConfig, batch: Batch) -> int:
    """Token ids as int64, and a label for each token or for each sample."""
    num_labels = batch.size
    if config.architecture != SEQUENCE_CLASSIFICATION:
        num_labels *= batch.seq_len
    return 8 * batch.size * batch.seq_len + 8 * num_labels


def masked_lm(t: Tape, config: BertConfig, batch: Batch) -> Tensor:
    """`BertForMaskedLM.forward`: no pooler, a head on every token, no upcast."""
    B, L = batch.size, batch.seq_len
    with t.scope("bert.embeddings.word_embeddings"):
        table = t.weight("weight", (config.vocab_size, config.hidden_size))
    sequence_output = bert(t, config, (B, L), table)
    prediction_scores = prediction_head(t, config, sequence_output, table)
    t.end_phase("forward")
    loss = cross_entropy(t, prediction_scores)
    del sequence_output
    keep_as_fp32(t, prediction_scores)
    return loss


def sequence_classification(t: Tape, config: BertConfig, batch: Batch) -> Tensor:
    """`BertForSequenceClassification.forward`: the pooler and a linear layer."""
    B, L = batch.size, batch.seq_len
    with t.scope("bert.embeddings.word_embeddings"):
        table = t.weight("weight", (config.vocab_size, config.hidden_size))
    sequence_output = bert(t, config, (B, L), table)
    pooled_output = pooler(t, sequence_output)
    pooled_output = dropout(t, pooled_output, config.pooled_dropout)
    logits = linear(t, "classifier", pooled_output, config.num_classes)
    t.end_phase("forward")
    is_regression = config.num_classes == 1 or config.problem_type == "regression"
    loss = (mean_squared_error if is_regression else cross_entropy)(t, logits)
    keep_as_fp32(t, logits)
    return loss


def bert(t: Tape, config: BertConfig, shape: tuple[int, int], table: Weight) -> Tensor:
    """`BertModel.forward` without its pooler: [B, L, D]."""
    with t.scope("bert"):
        embedding_output = embeddings(t, config, shape, table)
        hidden_states = t.view(embedding_output, embedding_output.shape)
        return repeat_layers(
            t, "encoder.layer", config.num_hidden_layers, Layer(config), hidden_states
        )


def embeddings(
    t: Tape, config: BertConfig, shape: tuple[int, int], table: Weight
) -> Tensor:
    """`BertEmbeddings`: words, token types of every sample, positions of one.

    Token types are zeros gathered from a buffer of the model where none are given.
    """
    B, L = shape
    with t.scope("embeddings"):
        token_type_ids = t.tensor((1, L), "int64")
        inputs_embeds = token_embedding(t, table, (B, L))
        with t.scope("token_type_embeddings"):
            types = t.weight("weight", (config.type_vocab_size, config.hidden_size))
        token_type_embeddings = embedding(t, types, (B, L))
        embeddings = add(t, inputs_embeds, token_type_embeddings)
        with t.scope("position_embeddings"):
            positions = t.weight(
                "weight", (config.max_position_embeddings, config.hidden_size)
            )
        position_embeddings = embedding(t, positions, (1, L))
        embeddings = add(t, embeddings, position_embeddings)
        embeddings = layer_norm(t, "LayerNorm", embeddings)
        embeddings = dropout(t, embeddings, config.hidden_dropout_prob)
        del token_type_ids
        return embeddings


@dataclass(frozen=True, slots=True)
class Layer:
    """`BertLayer`: attention, then two linear layers, each added and normalised."""

    config: BertConfig

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        attention_output = self.attention(t, x)
        with t.scope("intermediate"):
            intermediate_output = activation(
                t,
                self.config.hidden_act,
                linear(t, "dense", attention_output, self.config.intermediate_size),
            )
        with t.scope("output"):
            return add_and_norm(t, self.config, intermediate_output, attention_output)

    def attention(self, t: Tape, x: Tensor) -> Tensor:
        """`BertAttention`: softmax in the dtype of the scores, not in fp32."""
        config = self.config
        with t.scope("attention"):
            with t.scope("self"):
                query = self.heads(t, "query", x)
                key = self.heads(t, "key", x)
                value = self.heads(t, "value", x)
                attention_output = attend(
                    t,
                    query,
                    key,
                    value,
                    dropout_probability=config.attention_probs_dropout_prob,
                    softmax_in_fp32=False,
                )
            del query, key, value
            with t.scope("output"):
                return add_and_norm(t, config, attention_output, x)

    def heads(self, t: Tape, name: str, x: Tensor) -> Tensor:
        """A projection as [B, H, L, K]."""
        config = self.config
        B, L, D = x.shape
        states = linear(t, name, x, D)
        return t.view(states, (B, config.num_attention_heads, L, config.head_size))


def add_and_norm(t: Tape, config: BertConfig, x: Tensor, residual: Tensor) -> Tensor:
    """`BertSelfOutput` and `BertOutput`: dense, dropout, sum, LayerNorm."""
    hidden_states = linear(t, "dense", x, config.hidden_size)
    hidden_states = dropout(t, hidden_states, config.hidden_dropout_prob)
    return layer_norm(t, "LayerNorm", add(t, hidden_states, residual))


def pooler(t: Tape, hidden_states: Tensor) -> Tensor:
    """`BertPooler`: tanh of a linear layer on the first token."""
    B, _, D = hidden_states.shape
    with t.scope("bert.pooler"):
        first_token_tensor = part(t, hidden_states, (B, D))
        pooled_output = linear(t, "dense", first_token_tensor, D)
        return activation(t, "tanh", pooled_output)


def prediction_head(
    t: Tape, config: BertConfig, sequence_output: Tensor, table: Weight
) -> Tensor:
    """`BertLMPredictionHead`: the decoder is tied to the words, and has a bias."""
    D, V = config.hidden_size, config.vocab_size
    with t.scope("cls.predictions"):
        hidden_states = transform(t, config, sequence_output)
        bias = t.weight("bias", (V,))
        if config.tie_word_embeddings:
            t.share(table)
        else:
            with t.scope("decoder"):
                table = t.weight("weight", (V, D), is_linear=True)
        with t.scope("decoder"):
            return matmul_weight(t, hidden_states, table, V, bias)


def transform(t: Tape, config: BertConfig, x: Tensor) -> Tensor:
    """`BertPredictionHeadTransform`: dense, activation, LayerNorm."""
    with t.scope("transform"):
        hidden_states = linear(t, "dense", x, config.hidden_size)
        hidden_states = activation(t, config.hidden_act, hidden_states)
        return layer_norm(t, "LayerNorm", hidden_states)
