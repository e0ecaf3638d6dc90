"""OPT."""

from memplan.models.family import Family
from memplan.models.opt.config import OptConfig, check
from memplan.models.opt.formula import forward

FAMILY = Family(
    name="opt",
    config_class=OptConfig,
    forward=forward,
    inputs=("tokens",),
    max_seq_len=lambda config: config.max_position_embeddings,
    kv_bytes_per_token=lambda config, item_bytes: (
        2 * config.num_hidden_layers * config.hidden_size * item_bytes
    ),
    lora_targets=("q_proj", "v_proj"),
    check=check,
)
