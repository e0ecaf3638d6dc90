"""BERT encoders, trained as masked language models or as classifiers."""

from memplan.models.bert.config import BertConfig, check
from memplan.models.bert.formula import batch_bytes, forward
from memplan.models.family import Family

FAMILY = Family(
    name="bert",
    config_class=BertConfig,
    forward=forward,
    inputs=("tokens",),
    max_seq_len=lambda config: config.max_position_embeddings,
    never_quantized=("cls.predictions.decoder",),
    lora_targets=("query", "value"),
    check=check,
    batch_bytes=batch_bytes,
)
