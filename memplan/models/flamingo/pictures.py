"""Pictures as the vision towers take them.

OpenFlamingo's is CLIP's: the shorter side resized, the middle cut out. The paper keeps
the whole picture in its proportions and pads it with the mean (section 4.1.4), which is
zero when it has been normalised.
"""

from dataclasses import dataclass

import torch
from PIL import Image, ImageOps
from torch import Tensor

from memplan.models.flamingo.config import FlamingoConfig

Triple = tuple[float, float, float]
CLIP_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Triple = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparation:
    """From a picture to a tensor."""

    size: int
    keeps_whole: bool
    flips: bool
    """In training, half of the samples have their pictures mirrored."""
    mean: Triple = CLIP_MEAN
    std: Triple = CLIP_STD

    def __call__(self, picture: Image.Image, *, mirrored: bool = False) -> Tensor:
        """[3, size, size], normalised."""
        if mirrored:
            picture = ImageOps.mirror(picture)
        side = (self.size, self.size)
        bicubic = Image.Resampling.BICUBIC
        if not self.keeps_whole:
            return self._normalised(ImageOps.fit(picture, side, bicubic))
        fitted = self._normalised(ImageOps.contain(picture, side, bicubic))
        whole = torch.zeros(3, *side)
        top, left = (
            (self.size - fitted.shape[1]) // 2,
            (self.size - fitted.shape[2]) // 2,
        )
        whole[:, top : top + fitted.shape[1], left : left + fitted.shape[2]] = fitted
        return whole

    def _normalised(self, picture: Image.Image) -> Tensor:
        values = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        pixels = values.view(picture.height, picture.width, 3).permute(2, 0, 1) / 255
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return (pixels - mean[:, None, None]) / std[:, None, None]


def preparation_of(config: FlamingoConfig) -> Preparation:
    """As a variant prepares pictures for its tower."""
    if not config.is_paper:
        return Preparation(size=config.image_size, keeps_whole=False, flips=True)
    return Preparation(
        size=config.image_size,
        keeps_whole=True,
        flips=False,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
