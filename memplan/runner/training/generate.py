"""Generation: a prompt at once, then token after token with a cache of keys and values.

Greedy, and always as many tokens as were asked for: a loop of our own, since that of
transformers ends where the values say so. The two stages are marked as phases.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from memplan.models import Model
from memplan.plan import TrainingPlan
from memplan.runner.marks import phase
from memplan.runner.training.batch import Tensors, make_batch
from memplan.runner.training.precision import autocast, stored_dtype

if TYPE_CHECKING:
    from transformers.modeling_outputs import ModelOutput


def generate(
    plan: TrainingPlan, model: Model, module: nn.Module, device: torch.device
) -> None:
    """Answer one batch of prompts."""
    module.eval()
    with device:
        prompt = make_batch(plan, model, module, stored_dtype(plan))
    answer = _answering(model)
    if answer is not _look:
        prompt.pop("labels")
    with ExitStack() as contexts:
        contexts.enter_context(torch.no_grad())
        contexts.enter_context(autocast(plan))
        answer(module, prompt, plan.max_new_tokens)


def _answering(model: Model) -> Callable[[nn.Module, Tensors, int], None]:
    inputs = model.family.inputs
    if "target_tokens" in inputs:
        return _answer_encoded
    return _answer if "tokens" in inputs else _look


def _look(module: nn.Module, batch: Tensors, num_tokens: int) -> None:
    """PE-Net says all it sees at once, of boxes whose labels may be given."""
    with phase("prompt"):
        module(**batch)


def _answer(module: nn.Module, prompt: Tensors, num_tokens: int) -> None:
    """A decoder reads the prompt, and its own tokens after it."""
    with phase("prompt"):
        output = module(**prompt, use_cache=True, logits_to_keep=1)
    with phase("generation"):
        for _ in range(num_tokens):
            output = module(
                input_ids=_next_token(output),
                past_key_values=output.past_key_values,
                use_cache=True,
            )


def _answer_encoded(module: nn.Module, prompt: Tensors, num_tokens: int) -> None:
    """An encoder reads the prompt; a decoder begins with its start token."""
    language: Any = getattr(module, "language_model", module)
    with phase("prompt"):
        encoded = language.get_encoder()(**_encoder_input(module, prompt))
    start = language.config.decoder_start_token_id
    token = torch.full_like(prompt["input_ids"][:, :1], start)
    cache = None
    with phase("generation"):
        for _ in range(num_tokens):
            output = language(
                encoder_outputs=encoded,
                decoder_input_ids=token,
                past_key_values=cache,
                use_cache=True,
            )
            token, cache = _next_token(output), output.past_key_values


def _encoder_input(module: Any, prompt: Tensors) -> Tensors:
    """The prompt's ids, or its embeddings with pictures in their places."""
    ids = prompt["input_ids"]
    if "pixel_values" not in prompt:
        return {"input_ids": ids}
    instruction = {k: v for k, v in prompt.items() if k.startswith("qformer_")}
    found = module.get_image_features(
        prompt["pixel_values"].flatten(0, -4), **instruction
    )
    embeddings = module.get_input_embeddings()(ids)
    places = module.get_placeholder_mask(ids, inputs_embeds=embeddings)
    features = found.pooler_output.to(embeddings.dtype)
    return {"inputs_embeds": embeddings.masked_scatter(places, features)}


def _next_token(output: "ModelOutput") -> torch.Tensor:
    token: torch.Tensor = output.logits[:, -1:].argmax(dim=-1)
    return token
