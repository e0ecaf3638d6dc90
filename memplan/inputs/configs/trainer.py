"""transformers' `TrainingArguments` as a file: YAML or JSON."""

from collections.abc import Mapping
from typing import Any

from memplan.inputs.configs.argument_keys import (
    argument_keys,
    checkpointing_keys,
    model_keys,
)
from memplan.inputs.configs.arguments import (
    BATCH,
    CHECKPOINTING,
    Defaults,
    list_unread,
    read_arguments,
    read_model,
    read_precision,
)
from memplan.inputs.configs.format import Document, Keys, Reading, Source
from memplan.inputs.configs.section import Section
from memplan.plan import TrainingPlan


class _Trainer:
    """A file that `HfArgumentParser` reads, with a model's name beside at most."""

    name = "trainer"
    title = "TrainingArguments"
    suffix = ".yaml"

    def knows(self, document: Document) -> bool:
        """By an argument that decides a step, or by where its results go."""
        step = {*BATCH, *CHECKPOINTING, "gradient_accumulation_steps"}
        return not {*step, "model_name_or_path", "output_dir"}.isdisjoint(document)

    def read(self, source: Source) -> Reading:
        """What the arguments say; weights are taken to be kept in fp32."""
        reading = Reading()
        document = Section(source.document)
        autocast = read_arguments(document, source, reading, Defaults())
        read_precision(document, reading, autocast)
        read_model(document, reading)
        list_unread(document, reading)
        return reading

    def keys_of(self, plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
        """All that the arguments say of a plan."""
        keys = argument_keys(plan, document) | checkpointing_keys(plan, document)
        if "model_name_or_path" in document and plan.model is not None:
            keys |= model_keys(plan)
        return keys


TRAINER = _Trainer()
