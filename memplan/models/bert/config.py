"""BERT and the heads it is trained with."""

from collections.abc import Mapping
from dataclasses import dataclass

from memplan.errors import ModelConfigError
from memplan.formulas.layers import ACTIVATIONS

MASKED_LM = "BertForMaskedLM"
SEQUENCE_CLASSIFICATION = "BertForSequenceClassification"


@dataclass(frozen=True, kw_only=True, slots=True)
class BertConfig:
    """The fields of a config.json that decide sizes, under their own names."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    vocab_size: int = 30522
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    architectures: tuple[str, ...] | None = None
    """The class it is trained as; the first name counts, masked LM where none is."""
    num_labels: int | None = None
    id2label: Mapping[int, str] | None = None
    problem_type: str | None = None
    tie_word_embeddings: bool = True
    is_decoder: bool = False
    add_cross_attention: bool = False
    chunk_size_feed_forward: int = 0

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def architecture(self) -> str:
        """The class of transformers that trains it."""
        return self.architectures[0] if self.architectures else MASKED_LM

    @property
    def num_classes(self) -> int:
        """What `PretrainedConfig.num_labels` answers: the labels named, else 2."""
        if self.num_labels is not None:
            return self.num_labels
        return len(self.id2label) if self.id2label else 2

    @property
    def pooled_dropout(self) -> float:
        """Dropout before the classifier."""
        if self.classifier_dropout is not None:
            return self.classifier_dropout
        return self.hidden_dropout_prob


def check(config: BertConfig) -> None:
    """What cannot be built, and what moves memory and is not covered.

    Raises:
        ModelConfigError: the configuration is one of these.
    """
    if config.architecture not in (MASKED_LM, SEQUENCE_CLASSIFICATION):
        raise ModelConfigError(
            f"Training a {config.architecture} is not covered.",
            hint=f'Set "architectures" in its config.json to ["{MASKED_LM}"] or '
            f'["{SEQUENCE_CLASSIFICATION}"].',
        )
    if config.hidden_size % config.num_attention_heads:
        raise ModelConfigError(
            f"hidden_size {config.hidden_size} is no multiple of "
            f"{config.num_attention_heads} heads.",
            hint="Correct num_attention_heads in its config.json.",
        )
    if config.hidden_act not in ACTIVATIONS:
        raise ModelConfigError(
            f"The activation {config.hidden_act!r} is not covered.",
            hint=f"Covered: {', '.join(ACTIVATIONS)}.",
        )
    for name in ("is_decoder", "add_cross_attention", "chunk_size_feed_forward"):
        if getattr(config, name):
            raise ModelConfigError(
                f"A BERT with {name} is not covered.",
                hint=f"Leave {name} out of its config.json.",
            )
    if config.problem_type == "multi_label_classification":
        raise ModelConfigError(
            "Classification with several labels a sample is not covered.",
            hint='Set "problem_type" to "single_label_classification".',
        )
