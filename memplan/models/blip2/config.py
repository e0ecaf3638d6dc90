"""BLIP-2's configuration: a vision tower, a Q-Former, and a language model."""

from dataclasses import dataclass, field

from memplan.errors import ModelConfigError
from memplan.formulas.layers import ACTIVATIONS
from memplan.models.t5 import config as t5
from memplan.models.t5.config import T5Config


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionConfig:
    """`vision_config`: EVA-CLIP's ViT-g/14 without its last layer."""

    hidden_size: int = 1408
    intermediate_size: int = 6144
    num_hidden_layers: int = 39
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    hidden_act: str = "gelu"
    attention_dropout: float = 0.0
    qkv_bias: bool = True

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def num_positions(self) -> int:
        """Patches of a picture of `image_size`, and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class QFormerConfig:
    """`qformer_config`: BERT-base with cross-attention in every second layer."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    cross_attention_frequency: int = 2
    use_qformer_text_input: bool = False
    chunk_size_feed_forward: int = 0

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True, kw_only=True, slots=True)
class Blip2Config:
    """The fields of a config.json that decide sizes, under their own names."""

    model_type: str = "blip-2"
    vision_config: VisionConfig = field(default_factory=VisionConfig)
    qformer_config: QFormerConfig = field(default_factory=QFormerConfig)
    text_config: T5Config | None = None
    """Without one, transformers takes OPT, which is not covered."""
    num_query_tokens: int = 32

    @property
    def text(self) -> T5Config:
        assert self.text_config is not None
        return self.text_config

    @property
    def num_layers(self) -> int:
        """All layers, from the pictures to the answer."""
        return (
            self.vision_config.num_hidden_layers
            + self.qformer_config.num_hidden_layers
            + self.text.num_layers
            + self.text.decoder_layers
        )

    @property
    def has_text_branch(self) -> bool:
        """Whether the Q-Former has embeddings and layers for an instruction."""
        return self.model_type != "blip-2"


def check(config: Blip2Config) -> None:
    """What cannot be built, and what is not covered.

    Raises:
        ModelConfigError: the configuration is one of these.
    """
    text = config.text_config
    if text is None or text.model_type != "t5":
        name = "opt" if text is None else text.model_type
        raise ModelConfigError(
            f"A {config.model_type} with the language model {name!r} is not covered.",
            hint='Covered: language models whose text_config has "model_type": "t5".',
        )
    t5.check(text)
    vision, qformer = config.vision_config, config.qformer_config
    for place, part in (("vision_config", vision), ("qformer_config", qformer)):
        if part.hidden_size % part.num_attention_heads:
            raise ModelConfigError(
                f"hidden_size {part.hidden_size} of {place} is no multiple of "
                f"{part.num_attention_heads} heads.",
                hint="Correct num_attention_heads in its config.json.",
            )
        if part.hidden_act not in ACTIVATIONS:
            raise ModelConfigError(
                f"The activation {part.hidden_act!r} of {place} is not covered.",
                hint=f"Covered: {', '.join(ACTIVATIONS)}.",
            )
    if qformer.chunk_size_feed_forward or qformer.use_qformer_text_input:
        raise ModelConfigError(
            "A Q-Former with chunk_size_feed_forward or use_qformer_text_input is not "
            "covered.",
            hint="Leave both out of qformer_config.",
        )
    if qformer.num_hidden_layers % qformer.cross_attention_frequency:
        raise ModelConfigError(
            f"{qformer.num_hidden_layers} layers of the Q-Former are no multiple of "
            f"cross_attention_frequency {qformer.cross_attention_frequency}.",
            hint="Correct one of them in qformer_config.",
        )
    if not 1 <= vision.patch_size <= vision.image_size:
        raise ModelConfigError(
            f"A picture of {vision.image_size} pixels has no patch of "
            f"{vision.patch_size}.",
            hint="Correct image_size or patch_size in vision_config.",
        )
