"""DeepSeek-V2 and V3: latent attention, and experts beside shared ones."""

from memplan.formulas.experts import STATIC_SIZES
from memplan.models.deepseek.config import DeepseekConfig, check, complete
from memplan.models.deepseek.formula import forward
from memplan.models.family import Family

FAMILY = Family(
    name="deepseek",
    config_class=DeepseekConfig,
    forward=forward,
    inputs=("tokens",),
    max_seq_len=lambda config: config.max_position_embeddings,
    lora_targets=("kv_a_proj_with_mqa", "kv_b_proj", "o_proj"),
    complete=complete,
    check=check,
    notes=(STATIC_SIZES,),
)
