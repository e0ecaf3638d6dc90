"""How the papers of the included systems train them: one module a system, with torch.

Each has a `recipe` of optimizer, schedule and clipping, and makes the sources of an
update of datasets. `memplan.runner.training.fitting` carries them out.
"""
