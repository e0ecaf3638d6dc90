"""GPT-NeoX, Pythia and RedPajama."""

from memplan.models.family import Family
from memplan.models.gpt_neox.config import GptNeoxConfig, check
from memplan.models.gpt_neox.formula import forward

FAMILY = Family(
    name="gpt_neox",
    config_class=GptNeoxConfig,
    forward=forward,
    inputs=("tokens",),
    max_seq_len=lambda config: config.max_position_embeddings,
    kv_bytes_per_token=lambda config, item_bytes: (
        2 * config.num_hidden_layers * config.hidden_size * item_bytes
    ),
    lora_targets=("query_key_value",),
    check=check,
)
