"""Models: a configuration and a forward formula for each family.

`find_model` turns what the user named (a preset, a folder, a config.json, a hub id)
into a `Model`; `estimate` and the runners take it from there.
"""

from memplan.models.catalogue import Model, find_model, model_of_config, preset_names
from memplan.models.family import Family

__all__ = ["Family", "Model", "find_model", "model_of_config", "preset_names"]
