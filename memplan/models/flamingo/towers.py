"""Flamingo's towers: CLIP or an NFNet, and the language model, all of them frozen."""

from typing import Any

import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MptConfig,
    MptForCausalLM,
)

from memplan.models.clip.config import VisionConfig
from memplan.models.flamingo.chinchilla import Chinchilla
from memplan.models.flamingo.config import FlamingoConfig, LanguageConfig, NfnetConfig


def vision_encoder(config: FlamingoConfig) -> nn.Module:
    """CLIP's tower with open_clip's projection, which nobody reads; or timm's NFNet."""
    if config.nfnet_config is not None:
        return _nfnet(config.nfnet_config)
    assert config.vision_config is not None
    tower = config.vision_config
    encoder: nn.Module = CLIPVisionModel._from_config(
        CLIPVisionConfig(**_clip_fields(tower)), dtype=torch.get_default_dtype()
    )
    if not config.is_paper:
        encoder.proj = nn.Parameter(
            torch.randn(tower.hidden_size, tower.projection_dim)
        )
    return encoder


def language_model(config: LanguageConfig, attention: str | None) -> Any:
    """MPT, GPT-NeoX or the paper's, without a cache."""
    dtype = torch.get_default_dtype()
    wanted = {} if attention is None else {"attn_implementation": attention}
    if config.model_type == "mpt":
        # MPT has no attention but its own.
        return MptForCausalLM._from_config(
            MptConfig(
                d_model=config.hidden_size,
                n_heads=config.num_attention_heads,
                n_layers=config.num_hidden_layers,
                vocab_size=config.vocab_size,
                max_seq_len=config.max_position_embeddings,
                use_cache=False,
            ),
            dtype=dtype,
        )
    if config.model_type == "gpt_neox":
        return GPTNeoXForCausalLM._from_config(
            GPTNeoXConfig(
                hidden_size=config.hidden_size,
                intermediate_size=4 * config.hidden_size,
                num_attention_heads=config.num_attention_heads,
                num_hidden_layers=config.num_hidden_layers,
                vocab_size=config.vocab_size,
                max_position_embeddings=config.max_position_embeddings,
                use_parallel_residual=config.use_parallel_residual,
                rotary_pct=1.0,
                use_cache=False,
            ),
            dtype=dtype,
            **wanted,
        )
    return Chinchilla(config)


def layers_of(language: Any) -> tuple[Any, str]:
    """Where a language model has its layers."""
    if isinstance(language, Chinchilla):
        return language, "layers"
    if hasattr(language, "gpt_neox"):
        return language.gpt_neox, "layers"
    return language.transformer, "blocks"


def _clip_fields(tower: VisionConfig) -> dict[str, Any]:
    return {name: getattr(tower, name) for name in tower.__slots__}


def _nfnet(config: NfnetConfig) -> nn.Module:
    import timm

    tower: nn.Module = timm.create_model(
        f"dm_nfnet_{config.variant.lower()}", num_classes=0, global_pool=""
    )
    return tower
