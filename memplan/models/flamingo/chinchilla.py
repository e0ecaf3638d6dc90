"""The paper's frozen language model, as its counts have it: 13 D^2 a layer.

Chinchilla is Gopher's architecture: RMSNorm before each part, relative positions as in
Transformer-XL, whose projection is the thirteenth D^2 (arXiv 2112.11446, 3.1), a tied
head, and no biases. No weights of it were ever published.

Letters: B batch, L tokens, D hidden size, H heads, K size of a head, V vocabulary.
"""

import math

import torch
from torch import Tensor, nn
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutput
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from memplan.models.flamingo.config import LanguageConfig


class RelativeAttention(nn.Module):
    """Scores of contents and of distances, causal."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.scale = config.head_size**-0.5
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.relative = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, positions: Tensor, distances: Tensor) -> Tensor:
        """`distances` [L, L] are how far back a key lies, and negative ahead."""
        query, key, value = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        relative = self.relative(positions).unflatten(-1, (self.heads, -1))
        scores = torch.matmul(query, key.transpose(2, 3))
        by_distance = torch.matmul(query, relative.permute(0, 2, 3, 1))
        back = distances.clamp(min=0).expand(scores.shape)
        scores = (scores + by_distance.gather(-1, back)) * self.scale
        scores = scores.masked_fill(distances < 0, -torch.inf)
        weights = scores.softmax(dim=-1).to(value.dtype)
        context = torch.matmul(weights, value).transpose(1, 2).flatten(2)
        projected: Tensor = self.output(context)
        return projected


class ChinchillaLayer(GradientCheckpointingLayer):  # type: ignore[misc]
    """A pre-norm layer with GELU."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.norm_1 = LlamaRMSNorm(width)
        self.attention = RelativeAttention(config)
        self.norm_2 = LlamaRMSNorm(width)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, positions: Tensor, distances: Tensor) -> Tensor:
        x = x + self.attention(self.norm_1(x), positions, distances)
        inner = nn.functional.gelu(self.up(self.norm_2(x)))
        x = x + self.down(inner)
        return x


class Chinchilla(nn.Module):
    """`<EOC>` has a learnt embedding of its own beside the frozen table."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.vocab_size = config.vocab_size
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.eoc_embedding = nn.Parameter(torch.zeros(1, config.hidden_size))
        self.layers = nn.ModuleList(
            ChinchillaLayer(config) for _ in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config.hidden_size)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(
        self, input_ids: Tensor, labels: Tensor | None = None
    ) -> CausalLMOutput:
        """The end of a chunk is the last id of the vocabulary but one."""
        x = self.embed(input_ids)
        L, width = x.shape[1:]
        positions = sinusoids(L, width, x)
        places = torch.arange(L, device=x.device)
        distances = places[:, None] - places
        for layer in self.layers:
            x = layer(x, positions, distances)
        hidden_states = self.norm(x)
        logits = nn.functional.linear(hidden_states, self.embed.weight)
        loss = None
        if labels is not None:
            loss = ForCausalLMLoss(logits, labels, self.vocab_size)
        return CausalLMOutput(loss=loss, logits=logits)


def sinusoids(length: int, width: int, like: Tensor) -> Tensor:
    """Encodings [1, L, D] of the distances 0 to L - 1, of the dtype of `like`."""
    half = torch.arange(0, width, 2, device=like.device, dtype=torch.float32)
    frequencies = torch.exp(half * (-math.log(10_000.0) / width))
    angles = torch.arange(length, device=like.device)[:, None] * frequencies
    encodings = torch.cat([angles.sin(), angles.cos()], dim=-1)[None]
    return encodings.to(like.dtype)
