"""The paper's frozen language model, as its counts have it: 13 D^2 a layer.

Chinchilla is Gopher's architecture: RMSNorm before each part, relative positions as in
Transformer-XL, whose projection is the thirteenth D^2 (arXiv 2112.11446, 3.1), a tied
head, and no biases. No weights of it were ever published.

Letters: B batch, L tokens, S tokens with those of a cache, D hidden size, H heads, K
size of a head, V vocabulary.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from memplan.models.flamingo.config import LanguageConfig

INITIAL_STD = 0.02
"""Of initial weights; Chinchilla's are not published."""


class RelativeAttention(nn.Module):
    """Scores of contents and of distances, causal."""

    def __init__(self, config: LanguageConfig, layer_index: int = 0) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.scale = config.head_size**-0.5
        self.layer_index = layer_index
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.relative = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        distances: Tensor,
        padding: Tensor | None = None,
        cache: DynamicCache | None = None,
    ) -> Tensor:
        """[B, L, D] to the same.

        `distances` [L, S] are how far back a key lies, and negative ahead; `positions`
        [1, S, D] encode them. `padding` [B, 1, 1, S] is true for keys that are none.
        """
        query, key, value = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        if cache is not None:
            key, value = cache.update(key, value, self.layer_index)
        relative = self.relative(positions).unflatten(-1, (self.heads, -1))
        scores = torch.matmul(query, key.transpose(2, 3))
        by_distance = torch.matmul(query, relative.permute(0, 2, 3, 1))
        back = distances.clamp(min=0).expand(scores.shape)
        scores = (scores + by_distance.gather(-1, back)) * self.scale
        scores = scores.masked_fill(distances < 0, -torch.inf)
        if padding is not None:
            # Padding sees itself: a row of nothing but minus infinity has no softmax.
            scores = scores.masked_fill(padding & (distances > 0), -torch.inf)
        weights = scores.softmax(dim=-1).to(value.dtype)
        context = torch.matmul(weights, value).transpose(1, 2).flatten(2)
        projected: Tensor = self.output(context)
        return projected


class ChinchillaLayer(GradientCheckpointingLayer):  # type: ignore[misc]
    """A pre-norm layer with GELU."""

    def __init__(self, config: LanguageConfig, layer_index: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.norm_1 = LlamaRMSNorm(width)
        self.attention = RelativeAttention(config, layer_index)
        self.norm_2 = LlamaRMSNorm(width)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """`context` is what attention is given beside the tokens."""
        x = x + self.attention(self.norm_1(x), *context)
        inner = nn.functional.gelu(self.up(self.norm_2(x)))
        x = x + self.down(inner)
        return x


class Chinchilla(nn.Module):
    """`<EOC>` has a learnt embedding of its own beside the frozen table.

    It takes the place of an id of the vocabulary, in what is read and in what is
    predicted.
    """

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.vocab_size = config.vocab_size
        self.eoc_token_id = config.vocab_size - 2
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.eoc_embedding = nn.Parameter(torch.empty(1, config.hidden_size))
        self.layers = nn.ModuleList(
            ChinchillaLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config.hidden_size)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=INITIAL_STD)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> CausalLMOutputWithPast:
        """As transformers' models do, but that padding is masked only beside a cache.

        Without one it stands at the end, where nothing looks.
        """
        x = self.embedded(input_ids)
        L, width = x.shape[1:]
        cache = past_key_values if use_cache else None
        S = L if cache is None else L + cache.get_seq_length()
        positions = sinusoids(S, width, x)
        places = torch.arange(S, device=x.device)
        distances = places[S - L :, None] - places
        padding = None
        if attention_mask is not None and cache is not None:
            padding = attention_mask[:, None, None, :] == 0
        for layer in self.layers:
            x = layer(x, positions, distances, padding, cache)
        hidden_states = self.norm(x)
        logits = self.predicted(hidden_states[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = ForCausalLMLoss(logits, labels, self.vocab_size)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=past_key_values
        )

    def embedded(self, input_ids: Tensor) -> Tensor:
        """[B, L, D], with the learnt row where a text ends."""
        x = self.embed(input_ids)
        ends = (input_ids == self.eoc_token_id)[..., None]
        return torch.where(ends, self.eoc_embedding.to(x.dtype), x)

    def predicted(self, hidden_states: Tensor) -> Tensor:
        """Logits [B, L, V] by the tied table, with the learnt row in its place."""
        logits = nn.functional.linear(hidden_states, self.embed.weight)
        ends = nn.functional.linear(hidden_states, self.eoc_embedding)
        logits[..., self.eoc_token_id] = ends[..., 0]
        return logits


def sinusoids(length: int, width: int, like: Tensor) -> Tensor:
    """Encodings [1, L, D] of the distances 0 to L - 1, of the dtype of `like`."""
    half = torch.arange(0, width, 2, device=like.device, dtype=torch.float32)
    frequencies = torch.exp(half * (-math.log(10_000.0) / width))
    angles = torch.arange(length, device=like.device)[:, None] * frequencies
    encodings = torch.cat([angles.sin(), angles.cos()], dim=-1)[None]
    return encodings.to(like.dtype)
