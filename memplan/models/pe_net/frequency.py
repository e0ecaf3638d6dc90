"""The frequency baseline: the predicate that two classes have most often.

It sees no picture. As `get_VG_statistics` of Scene-Graph-Benchmark.pytorch counts.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from memplan.models.pe_net.pairs import all_pairs
from memplan.models.pe_net.recall import Prediction
from memplan.models.pe_net.scenes import Box, Scene, Vocabulary

EPSILON = 1e-3


class FrequencyBaseline:
    """Predicates by the classes of subject and object, counted on training scenes."""

    def __init__(self, scenes: Iterable[Scene], vocabulary: Vocabulary) -> None:
        num_classes = len(vocabulary.objects)
        self.counts = torch.zeros(num_classes, num_classes, len(vocabulary.predicates))
        self.counts[:, :, 0] = 1
        for scene in scenes:
            self._count(scene)

    def _count(self, scene: Scene) -> None:
        classes = scene.classes
        for subject, object_, predicate in scene.relations:
            self.counts[classes[subject], classes[object_], predicate] += 1
        pairs = all_pairs(len(scene.boxes))
        # As published, also the related ones; those that overlap, if any do.
        touching = [
            (s, o) for s, o in pairs if _overlap(scene.boxes[s], scene.boxes[o])
        ]
        for subject, object_ in touching or pairs:
            self.counts[classes[subject], classes[object_], 0] += 1

    def predict(self, scene: Scene) -> Prediction:
        """Of a picture whose boxes and classes are given."""
        classes = torch.tensor(scene.classes)
        pairs = torch.tensor(all_pairs(len(classes)), dtype=torch.int64).view(-1, 2)
        return Prediction(
            boxes=torch.tensor(scene.boxes).float(),
            classes=classes,
            scores=torch.ones(len(classes)),
            pairs=pairs,
            predicate_scores=self.shares(classes[pairs[:, 0]], classes[pairs[:, 1]]),
        )

    def shares(self, subjects: Tensor, objects: Tensor) -> Tensor:
        """[P, predicates]: how often each predicate was that of two classes."""
        counts = self.counts[subjects, objects]
        shares = counts / counts.sum(dim=1, keepdim=True) + EPSILON
        normalised: Tensor = shares / shares.sum(dim=1, keepdim=True)
        return normalised


def _overlap(first: Box, second: Box) -> bool:
    return all(
        min(first[axis + 2], second[axis + 2]) > max(first[axis], second[axis])
        for axis in (0, 1)
    )
