"""Answers, token after token: greedy, or by beam search as the paper evaluates.

The prompt is read once. After that a token needs the keys and values of those before it
and the visual tokens of the pictures, which stay in the cache; no picture is looked at
again. Prompts of several lengths are padded on the left.

Letters: B batch, K beams of a sample, V vocabulary.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from memplan.errors import PlanError
from memplan.models.flamingo.module import Flamingo, FlamingoCache


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """How an answer is looked for."""

    max_new_tokens: int
    num_beams: int = 1
    """1 is greedy; the paper evaluates with 3."""
    length_penalty: float = 0.0
    """Of beams: sums of log probabilities are divided by the length to this power."""
    end_token_ids: Collection[int] = ()
    """Any of these ends an answer."""


@torch.no_grad()
def generate(
    model: Flamingo,
    search: Search,
    *,
    input_ids: Tensor,
    vision_x: Tensor | None = None,
    attention_mask: Tensor | None = None,
    image_indices: Tensor | None = None,
) -> list[list[int]]:
    """The tokens of each sample's answer, without the one that ended it.

    Raises:
        PlanError: prompt and answer are longer than the language model reads.
    """
    _check_length(model, input_ids.shape[1] + search.max_new_tokens)
    output = model(
        input_ids,
        vision_x,
        attention_mask=attention_mask,
        image_indices=image_indices,
        use_cache=True,
        logits_to_keep=1,
    )
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    beams = _Beams(output.logits[:, -1], output.past_key_values, attention_mask, search)
    for _ in range(search.max_new_tokens - 1):
        if beams.all_ended():
            break
        output = model(
            beams.tokens[:, -1:],
            attention_mask=beams.attention_mask,
            # No picture comes in an answer, not even if it says so.
            image_indices=beams.cache.image_index,
            past_key_values=beams.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        beams.extend(output.logits[:, -1], output.past_key_values)
    return beams.best()


def _check_length(model: Flamingo, num_tokens: int) -> None:
    limit = model.config.text_config.max_position_embeddings
    if num_tokens > limit:
        raise PlanError(
            f"Prompt and answer are {num_tokens} tokens, and the language model reads "
            f"{limit}.",
            hint="Use fewer shots, or ask for fewer tokens.",
        )


class _Beams:
    """The K best beginnings of every sample's answer, by sums of log probabilities.

    A beam that has ended goes on with its last token at no cost, so that it competes
    with those that have not.
    """

    def __init__(
        self,
        logits: Tensor,
        cache: FlamingoCache,
        attention_mask: Tensor,
        search: Search,
    ) -> None:
        self.search = search
        K = search.num_beams
        self.num_samples = len(logits)
        if K > 1:
            cache.repeat(K)
        self.cache = cache
        self.attention_mask = attention_mask.repeat_interleave(K, dim=0)
        rows = self.num_samples * K
        self.tokens = torch.empty(rows, 0, dtype=torch.int64, device=logits.device)
        self.lengths = torch.zeros_like(self.tokens.sum(dim=1))
        self.ends = torch.tensor(
            list(search.end_token_ids), dtype=torch.int64, device=logits.device
        )
        # At first all beams of a sample are one.
        self.scores = torch.full((self.num_samples, K), -torch.inf).to(logits.device)
        self.scores[:, 0] = 0.0
        self.extend(logits.repeat_interleave(K, dim=0), cache)

    @property
    def has_ended(self) -> Tensor:
        if not self.tokens.shape[1]:
            return torch.zeros_like(self.lengths, dtype=torch.bool)
        return torch.isin(self.tokens[:, -1], self.ends)

    def all_ended(self) -> bool:
        return bool(self.has_ended.all())

    def extend(self, logits: Tensor, cache: FlamingoCache) -> None:
        """Each beam by every token, and of these the K best of a sample."""
        B, K, V = *self.scores.shape, logits.shape[-1]
        costs = logits.float().log_softmax(dim=-1)
        has_ended = self.has_ended
        if has_ended.any():
            stays = torch.full_like(costs, -torch.inf)
            stays.scatter_(1, self.tokens[:, -1:], 0.0)
            costs = torch.where(has_ended[:, None], stays, costs)
        scores = (self.scores[:, :, None] + costs.view(B, K, V)).view(B, K * V)
        self.scores, places = scores.topk(K, dim=-1)
        first_rows = torch.arange(B, device=places.device)[:, None] * K
        rows = (first_rows + places // V).flatten()
        token = (places % V).flatten()[:, None]
        self.lengths = (self.lengths + ~has_ended)[rows]
        self.tokens = torch.cat([self.tokens[rows], token], dim=1)
        seen = torch.ones_like(self.attention_mask[:, :1])
        self.attention_mask = torch.cat([self.attention_mask, seen], dim=1)
        self.cache = cache
        if K > 1:
            cache.reorder(rows)

    def best(self) -> list[list[int]]:
        """The best beam of each sample."""
        B, K = self.scores.shape
        lengths = self.lengths.view(B, K)
        ranked = self.scores / lengths.float() ** self.search.length_penalty
        rows = torch.arange(B, device=ranked.device) * K + ranked.argmax(dim=-1)
        answers: list[list[int]] = []
        for tokens, length in zip(
            self.tokens[rows].tolist(), self.lengths[rows].tolist(), strict=True
        ):
            answer = tokens[:length]
            if answer and answer[-1] in self.search.end_token_ids:
                answer.pop()
            answers.append(answer)
        return answers
