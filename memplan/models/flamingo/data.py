"""Interleaved pages and pairs, as JSON Lines that name pictures in a folder.

    {"text_list": ["Cute!", "A puppy."], "image_info": [{"image_name": "0.png",
      "matched_text_index": 1, "matched_sim": 0.31}]}                           MMC4
    {"texts": ["Cute!", null, "A puppy."], "images": [null, "0.png", null]}     OBELICS
    {"image": "0.png", "text": "A puppy."}                                      a pair
    {"frames": ["0.png", "1.png"], "text": "It runs."}                          a video

MMC4's pictures may be within the record, as `image_base64`. What of a page is read, and
what of it is left to chance, is what the two papers say (arXiv 2204.14198, 3.2 and A.1;
2308.01390, 3.3, and open_flamingo/train/data.py).
"""

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from memplan.data import Policy, Record, Usable, open_picture, read_json_lines
from memplan.data.padding import IGNORED, padded
from memplan.models.flamingo.config import FlamingoConfig
from memplan.models.flamingo.pictures import Preparation, preparation_of
from memplan.models.flamingo.prompts import Chunk, Writer, Written

MMC4, OBELICS, PAIRS = "mmc4.jsonl", "obelics.jsonl", "pairs.jsonl"
"""Names that a sample's files have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What of a record becomes a sample."""

    max_tokens: int
    max_pictures: int = 1
    min_similarity: float = -torch.inf
    """Of a picture to its text, in MMC4; others are left out."""
    single_picture_fraction: float = 1.0
    """Of pages with one picture, how many are kept."""
    begins_anywhere: bool = False
    """Whether a long text is cut at both ends, or at its end alone."""
    next_fraction: float = 0.0
    """p_next: of pages, how many have their texts see the picture that follows."""
    space_fraction: float = 0.0
    """Of pairs, how many have a space before their text."""


def reading_of_pages(config: FlamingoConfig) -> Reading:
    """Of interleaved pages."""
    if config.is_paper:
        return Reading(
            max_tokens=256, max_pictures=5, begins_anywhere=True, next_fraction=0.5
        )
    return Reading(
        max_tokens=256,
        max_pictures=6,
        min_similarity=0.24,
        single_picture_fraction=0.5,
    )


def reading_of_pairs(config: FlamingoConfig) -> Reading:
    """Of pictures, or videos, with a text each."""
    return Reading(max_tokens=32, space_fraction=0.5 if config.is_paper else 0.0)


@dataclass(frozen=True, slots=True)
class Sample:
    """A text and its pictures."""

    ids: list[int]
    labels: list[int]
    image_indices: list[int]
    pictures: Tensor
    """[T, F, 3, H, W]"""


@dataclass(frozen=True, slots=True)
class Frames:
    """Where a picture of a record is to be found; a video has several."""

    sources: tuple[str | bytes, ...]
    field: str


@dataclass(frozen=True, slots=True)
class Page:
    """A record: texts, and pictures in their places between them."""

    record: Record
    pieces: tuple[str | Frames, ...]
    is_pair: bool


class Pages:
    """A file of pages or of pairs; draws samples from it.

    Args:
        file: JSON Lines of one of the formats above.
        writer: makes token ids of texts.
        config: whose pictures are prepared.
        reading: what becomes of a record.
        folder: that names of pictures are relative to; by default the file's own.
        policy: for records that cannot be used.

    Raises:
        DataError: the file cannot be read, or a record under Policy.REFUSE.
    """

    def __init__(
        self,
        file: Path,
        writer: Writer,
        config: FlamingoConfig,
        reading: Reading,
        *,
        folder: Path | None = None,
        policy: Policy = Policy.REFUSE,
    ) -> None:
        self.writer = writer
        self.reading = reading
        self.folder = folder or file.parent
        self.prepare: Preparation = preparation_of(config)
        self.takes_videos = config.is_paper
        usable = Usable(read_json_lines(file), self._parse, policy)
        self.pages = list(usable)
        self.skipped = usable.skipped
        """How many records were skipped, by what was wrong."""

    def __len__(self) -> int:
        return len(self.pages)

    def draw(self, index: int, random: Random) -> Sample:
        """One page; of those with a single picture, some give way to the next page.

        Raises:
            BadRecordError: a picture cannot be opened, or there is no text to learn.
        """
        for following in range(len(self)):
            page = self.pages[(index + following) % len(self)]
            pictures = [piece for piece in page.pieces if isinstance(piece, Frames)]
            is_kept = random.random() < self.reading.single_picture_fraction
            if len(pictures) > 1 or is_kept:
                break
        written, kept = self._written(page, pictures, random)
        if not any(written.predicted[1:]):
            raise page.record.error("", "has no text after a picture that fits")
        follows = random.random() < self.reading.next_fraction
        labels = [
            token if asked else IGNORED
            for token, asked in zip(written.ids, written.predicted, strict=True)
        ]
        return Sample(
            written.ids,
            labels,
            written.seen(follows=follows),
            self._opened(page.record, kept, random),
        )

    def _written(
        self, page: Page, pictures: list[Frames], random: Random
    ) -> tuple[Written, list[Frames]]:
        """The tokens that fit, and the pictures among them."""
        reading = self.reading
        chunks = _chunks(page, reading.max_pictures, cuts=not reading.begins_anywhere)
        if page.is_pair and random.random() < reading.space_fraction:
            chunks = [Chunk(" " + chunks[0].text)]
        written = self.writer.write(
            chunks, learns_end=page.is_pair or self.writer.is_paper
        )
        spare = len(written.ids) - reading.max_tokens
        start = 0
        if reading.begins_anywhere and spare > 0:
            start = random.randint(0, spare)
            ends = start + reading.max_tokens - len(self.writer.image_ids)
            if not any(start <= place <= ends for place in written.pictures):
                # A text that sees nothing teaches nothing: begin with a picture.
                start = min(random.choice(written.pictures), spare)
        return self._cut(written, start, pictures)

    def _cut(
        self, written: Written, start: int, pictures: list[Frames]
    ) -> tuple[Written, list[Frames]]:
        """So many tokens from one on, with the first pictures of those in them."""
        stop = start + self.reading.max_tokens
        tag = len(self.writer.image_ids)
        inside = [
            (place, picture)
            for place, picture in zip(written.pictures, pictures, strict=False)
            if start <= place <= stop - tag
        ]
        kept = inside[: self.reading.max_pictures]
        # The tag of a picture that is left out would promise one.
        promised = {
            place + i
            for place, _ in inside[self.reading.max_pictures :]
            for i in range(tag)
        }
        places = [p for p in range(len(written.ids))[start:stop] if p not in promised]
        cut = Written(
            [written.ids[place] for place in places],
            [place - start for place, _ in kept],
            [written.predicted[place] for place in places],
        )
        return cut, [picture for _, picture in kept]

    def _opened(self, record: Record, pictures: list[Frames], random: Random) -> Tensor:
        """[T, F, 3, H, W]; the pictures of a sample are mirrored together."""
        mirrored = self.prepare.flips and random.random() < 0.5
        tensors = []
        for frames in pictures:
            opened = []
            for source in frames.sources:
                where = self.folder / source if isinstance(source, str) else source
                picture = open_picture(where, record, frames.field)
                opened.append(self.prepare(picture, mirrored=mirrored))
            tensors.append(torch.stack(opened))
        return torch.stack(tensors)

    # Formats

    def _parse(self, record: Record) -> Page:
        """The pieces of a record, whichever format it is of.

        Raises:
            BadRecordError: a field is missing, of the wrong type or empty.
        """
        is_pair = False
        if "text_list" in record.fields:
            pieces = self._mmc4(record)
        elif "texts" in record.fields:
            pieces = _obelics(record)
        else:
            pieces, is_pair = self._pair(record), True
        if not any(isinstance(piece, Frames) for piece in pieces):
            raise record.error("", "has no picture that is used")
        if not any(isinstance(piece, str) and piece.strip() for piece in pieces):
            raise record.error("", "has no text")
        # What was read is not kept: there are millions of records.
        return Page(replace(record, fields={}), tuple(pieces), is_pair)

    def _mmc4(self, record: Record) -> list[str | Frames]:
        """Each picture before the text that it is matched with."""
        texts = record.texts("text_list")
        before: dict[int, list[Frames]] = {}
        for place, fields in enumerate(record.list_of("image_info", dict)):
            info = replace(record, fields=fields)
            where = f"image_info[{place}]"
            index = info.of_type("matched_text_index", int)
            if not 0 <= index < len(texts):
                raise info.error(
                    f"{where}.matched_text_index",
                    f"is no index of the {len(texts)} texts",
                )
            if info.of_type("matched_sim", float) >= self.reading.min_similarity:
                before.setdefault(index, []).append(_mmc4_picture(info, where))
        return [
            piece
            for index, text in enumerate(texts)
            for piece in (*before.get(index, ()), text)
        ]

    def _pair(self, record: Record) -> list[str | Frames]:
        """A picture or the frames of a video, and what is said of it."""
        text = record.text("text")
        if "frames" not in record.fields:
            return [Frames((record.text("image"),), "image"), text]
        frames = record.texts("frames")
        if not frames:
            raise record.error("frames", "is empty")
        if not self.takes_videos:
            raise record.error("frames", "is a video, which OpenFlamingo does not take")
        return [Frames(tuple(frames), "frames"), text]


def _mmc4_picture(info: Record, where: str) -> Frames:
    """Within the record, or a file that it names."""
    if "image_base64" not in info.fields:
        return Frames((info.text("image_name"),), f"{where}.image_name")
    field = f"{where}.image_base64"
    try:
        return Frames((b64decode(info.text("image_base64"), validate=True),), field)
    except Base64Error:
        raise info.error(field, "is not base64") from None


def _obelics(record: Record) -> list[str | Frames]:
    """Of two lists of one length, each place has a text or a picture."""
    texts, images = record.of_type("texts", list), record.of_type("images", list)
    if len(texts) != len(images):
        raise record.error("images", f"is not as long as texts ({len(texts)})")
    pieces: list[str | Frames] = []
    for place, (text, image) in enumerate(zip(texts, images, strict=True)):
        one = image if text is None else text
        if (text is None) == (image is None) or not isinstance(one, str):
            raise record.error(
                "texts", f"has not one text or one picture in place {place}"
            )
        pieces.append(one if image is None else Frames((image,), "images"))
    return pieces


def _chunks(page: Page, max_pictures: int, *, cuts: bool) -> list[Chunk]:
    """A chunk for each picture, with the texts up to the next one.

    `cuts` leaves out the pictures after so many, and no text: as OpenFlamingo does.
    """
    chunks: list[list[str]] = [[]]
    for piece in page.pieces:
        if isinstance(piece, str):
            chunks[-1].append(piece.strip())
        elif not cuts or len(chunks) <= max_pictures:
            chunks.append([])
    texts = [" ".join(text for text in chunk if text) for chunk in chunks]
    leading = [Chunk(texts[0], has_picture=False)] if texts[0] else []
    return [*leading, *map(Chunk, texts[1:])]


@dataclass(frozen=True, slots=True)
class Collate:
    """Pads the samples of a batch: pictures to the most, tokens to the longest."""

    pad_id: int
    pads_left: bool = False
    """For answers, which follow the last token."""

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """The arguments of the model's forward pass.

        Raises:
            ValueError: the pictures of the samples have different numbers of frames.
        """
        shapes = [sample.pictures.shape[1:] for sample in samples]
        if any(one != other for one, other in pairwise(shapes)):
            raise ValueError(f"pictures of one batch differ: {sorted(set(shapes))}")
        most = max(len(sample.pictures) for sample in samples)
        vision_x = torch.zeros(len(samples), most, *shapes[0])
        for row, sample in enumerate(samples):
            vision_x[row, : len(sample.pictures)] = sample.pictures
        ids = [sample.ids for sample in samples]
        pad = partial(padded, on_left=self.pads_left)
        return {
            "vision_x": vision_x,
            "input_ids": pad(ids, self.pad_id),
            "attention_mask": pad([[1] * len(row) for row in ids], 0),
            "labels": pad([sample.labels for sample in samples], IGNORED),
            "image_indices": pad([s.image_indices for s in samples], 0),
        }
