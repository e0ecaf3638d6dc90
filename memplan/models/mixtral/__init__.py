"""Mixtral: Mistral's layers with a mixture of experts in the place of the MLP."""

from memplan.formulas.experts import STATIC_SIZES
from memplan.models.family import Family
from memplan.models.mixtral.config import MixtralConfig, check
from memplan.models.mixtral.formula import forward

FAMILY = Family(
    name="mixtral",
    config_class=MixtralConfig,
    forward=forward,
    inputs=("tokens",),
    max_seq_len=lambda config: config.max_position_embeddings,
    lora_targets=("q_proj", "v_proj"),
    check=check,
    notes=(STATIC_SIZES,),
)
