"""Losses that make the logits of one part of the tokens after the other."""

from memplan.inputs.configs.format import Reading

CHUNKS = 8
"""As torchtune and Axolotl have it by default."""
KEPT = "logits that a part keeps for its backward are counted as made anew"
WHOLE = "logits are counted whole: beside weights in shards parts have no formula"


def has_formula(zero_stage: int, sharding: str) -> bool:
    """Whether a loss in parts has one: it takes the head as a whole."""
    return zero_stage < 3 if sharding == "deepspeed" else zero_stage == 0


def say_chunks(reading: Reading, key: str, chunks: int) -> None:
    """A loss in parts, of a document whose sharding has been read."""
    stage = reading.fields.get("zero_stage", 0)
    if not has_formula(stage, reading.fields.get("sharding", "fsdp2")):
        reading.miss(key, WHOLE)
        return
    reading.say(key, cross_entropy_chunks=chunks)
    reading.miss(key, KEPT)
