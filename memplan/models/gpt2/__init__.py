"""GPT-2."""

from memplan.models.family import Family
from memplan.models.gpt2.config import Gpt2Config, check, divide
from memplan.models.gpt2.formula import forward

FAMILY = Family(
    name="gpt2",
    config_class=Gpt2Config,
    forward=forward,
    inputs=("tokens",),
    max_seq_len=lambda config: config.n_positions,
    kv_bytes_per_token=lambda config, item_bytes: (
        2 * config.n_layer * config.n_embd * item_bytes
    ),
    lora_targets=("c_attn",),
    check=check,
    divide=divide,
)
