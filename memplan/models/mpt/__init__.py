"""MPT."""

from memplan.models.family import Family
from memplan.models.mpt.config import MptConfig, check
from memplan.models.mpt.formula import forward

FAMILY = Family(
    name="mpt",
    config_class=MptConfig,
    forward=forward,
    inputs=("tokens",),
    max_seq_len=lambda config: config.max_seq_len,
    kv_bytes_per_token=lambda config, item_bytes: (
        2 * config.n_layers * config.d_model * item_bytes
    ),
    lora_targets=("Wqkv",),
    check=check,
)
