"""Pages and pairs: what is read of them, what is refused, what a batch becomes."""

import base64
import json
import pickle
from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from memplan.data import Policy
from memplan.data.records import BadRecordError
from memplan.errors import DataError
from memplan.models import find_model

torch = pytest.importorskip("torch", reason="samples are tensors")
pytest.importorskip("transformers", reason="the writer takes its tokenizers")

from PIL import Image  # noqa: E402

from memplan.models.flamingo import module as flamingo  # noqa: E402
from memplan.models.flamingo.data import (  # noqa: E402
    IGNORED,
    MMC4,
    OBELICS,
    PAIRS,
    Collate,
    Pages,
    Reading,
    reading_of_pages,
    reading_of_pairs,
)
from memplan.models.flamingo.miniature import (  # noqa: E402
    COLORS,
    byte_tokenizer,
    write_sample,
)
from memplan.models.flamingo.prompts import Writer  # noqa: E402

PAPER, OPEN = "flamingo-tiny", "openflamingo-tiny"
ALL = Reading(max_tokens=400, max_pictures=99)


@pytest.fixture
def folder(tmp_path):
    write_sample(tmp_path, 6)
    return tmp_path


def pages(file, name=OPEN, reading=ALL, **options):
    config = find_model(name).config
    return Pages(file, Writer(config, byte_tokenizer()), config, reading, **options)


def write(file, *records):
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def picture(folder, name="0.png", color="red", size=(40, 40)):
    Image.new("RGB", size, COLORS[color]).save(folder / name)
    return name


def decoded(source, sample, ids=None):
    tokenizer = source.writer.tokenizer
    return tokenizer.decode(ids or sample.ids, skip_special_tokens=False)


def mmc4(texts, *matched):
    """A record of MMC4: (name, text's index, similarity) of each picture."""
    return {
        "text_list": texts,
        "image_info": [
            {"image_name": n, "matched_text_index": i, "matched_sim": s}
            for n, i, s in matched
        ],
    }


# Formats


@pytest.mark.parametrize("name", [OPEN, PAPER])
def test_mmc4_and_obelics_say_the_same(folder, name):
    one, other = pages(folder / MMC4, name), pages(folder / OBELICS, name)
    assert len(one) == len(other) == 6
    for index in range(6):
        first, second = (p.draw(index, Random(1)) for p in (one, other))
        assert first.ids == second.ids
        assert first.labels == second.labels
        assert torch.equal(first.pictures, second.pictures)


def test_each_text_stands_after_its_own_picture(tmp_path):
    names = [picture(tmp_path, f"{c}.png", c) for c in ("red", "blue", "green")]
    file = write(
        tmp_path / "pages.jsonl",
        mmc4(
            ["start", "one", "two", "three"],
            # In any order, and two before one text.
            (names[2], 3, 0.5),
            (names[0], 1, 0.3),
            (names[1], 1, 0.4),
        ),
    )
    source = pages(file)
    sample = source.draw(0, Random(0))
    end = "<|endofchunk|>"
    assert decoded(source, sample) == (
        f"start{end}<image>{end}<image>one two{end}<image>three{end}</s>"
    )
    means = sample.pictures[:, 0].mean(dim=(2, 3))
    # Red, blue, green: as in the text, not as in the record.
    assert means.argmax(dim=1).tolist() == [0, 2, 1]


def test_pictures_below_the_threshold_are_left_out(tmp_path):
    name = picture(tmp_path)
    file = write(
        tmp_path / "pages.jsonl", mmc4(["a", "b"], (name, 0, 0.23), (name, 1, 0.24))
    )
    source = pages(file, reading=replace(ALL, min_similarity=0.24))
    sample = source.draw(0, Random(0))
    assert decoded(source, sample).startswith("a<|endofchunk|><image>b")
    assert len(sample.pictures) == 1


def test_a_picture_may_be_within_its_record(tmp_path):
    name = picture(tmp_path)
    record = mmc4(["a"], (name, 0, 1.0))
    data = (tmp_path / name).read_bytes()
    record["image_info"][0]["image_base64"] = base64.b64encode(data).decode()
    (tmp_path / name).unlink()
    source = pages(write(tmp_path / "pages.jsonl", record))
    assert source.draw(0, Random(0)).pictures.shape == (1, 1, 3, 64, 64)


def test_a_pair_is_a_picture_and_its_text(folder):
    source = pages(folder / PAIRS, reading=reading_of_pairs(find_model(OPEN).config))
    sample = source.draw(0, Random(0))
    assert decoded(source, sample).startswith("<image>")
    predicted = [i for i in sample.labels if i != IGNORED]
    assert decoded(source, sample, predicted).endswith("<|endofchunk|></s>")
    assert sample.image_indices == [1] * len(sample.ids)


def test_the_paper_puts_a_space_before_half_of_the_pairs(folder):
    source = pages(folder / PAIRS, PAPER, reading_of_pairs(find_model(PAPER).config))
    random = Random(0)
    texts = [decoded(source, source.draw(0, random)) for _ in range(400)]
    with_space = sum(text.startswith("<s><image> ") for text in texts)
    assert 160 < with_space < 240


def test_a_video_has_frames(tmp_path):
    write_sample(tmp_path, 2, num_frames=8)
    sample = pages(tmp_path / PAIRS, PAPER).draw(0, Random(0))
    assert sample.pictures.shape == (1, 8, 3, 64, 64)
    with pytest.raises(BadRecordError, match="field frames: is a video"):
        pages(tmp_path / PAIRS, OPEN)


def test_workers_of_any_kind_can_be_given_the_pages(folder):
    source = pages(folder / MMC4)
    again = pickle.loads(pickle.dumps(source))
    assert again.draw(0, Random(0)).ids == source.draw(0, Random(0)).ids


# What is left to chance, and what is cut


def test_the_readings_are_those_of_the_papers():
    paper, other = (reading_of_pages(find_model(n).config) for n in (PAPER, OPEN))
    assert (paper.max_tokens, paper.max_pictures, paper.next_fraction) == (256, 5, 0.5)
    assert (other.max_tokens, other.max_pictures, other.next_fraction) == (256, 6, 0.0)
    assert (other.min_similarity, other.single_picture_fraction) == (0.24, 0.5)
    assert reading_of_pairs(find_model(PAPER).config).max_tokens == 32


def long_page(folder, num_pictures=8):
    name = picture(folder)
    texts = [f"text {i}" for i in range(num_pictures)]
    return write(
        folder / "long.jsonl", mmc4(texts, *((name, i, 1.0) for i in range(len(texts))))
    )


def test_openflamingo_cuts_pictures_and_tokens_at_the_end(tmp_path):
    file = long_page(tmp_path)
    source = pages(file, reading=replace(ALL, max_pictures=6))
    sample = source.draw(0, Random(0))
    assert len(sample.pictures) == 6
    assert "text 5 text 6 text 7<|endofchunk|>" in decoded(source, sample)
    short = pages(file, reading=replace(ALL, max_tokens=20)).draw(0, Random(0))
    assert short.ids == sample.ids[:20]
    # Pictures are there for the tags that are.
    assert len(short.pictures) == short.ids.count(source.writer.image_ids[0])


def test_the_paper_cuts_anywhere_and_always_sees_a_picture(tmp_path):
    name = picture(tmp_path)
    file = write(
        tmp_path / "pages.jsonl",
        {"texts": ["x" * 200, None, "y" * 200], "images": [None, name, None]},
    )
    reading = Reading(max_tokens=40, max_pictures=5, begins_anywhere=True)
    source = pages(file, PAPER, reading)
    starts = set()
    for seed in range(30):
        sample = source.draw(0, Random(seed))
        assert len(sample.ids) == 40
        assert len(sample.pictures) == max(sample.image_indices) == 1
        starts.add(decoded(source, sample).find("<image>"))
    assert len(starts) > 3


def test_the_paper_keeps_the_first_pictures_of_a_window(tmp_path):
    reading = Reading(max_tokens=300, max_pictures=5, begins_anywhere=True)
    source = pages(long_page(tmp_path), PAPER, reading)
    sample = source.draw(0, Random(0))
    assert len(sample.pictures) == max(sample.image_indices) == 5
    # No tag without a picture; the texts are all there.
    assert decoded(source, sample).count("<image>") == 5
    assert "text 7" in decoded(source, sample)


def test_of_pages_with_one_picture_half_give_way(tmp_path):
    one, two = picture(tmp_path), picture(tmp_path, "1.png")
    file = write(
        tmp_path / "pages.jsonl",
        mmc4(["single"], (one, 0, 1.0)),
        mmc4(["a", "b"], (one, 0, 1.0), (two, 1, 1.0)),
    )
    source = pages(file, reading=replace(ALL, single_picture_fraction=0.5))
    random = Random(0)
    counted = Counter(len(source.draw(0, random).pictures) for _ in range(400))
    assert 160 < counted[1] < 240
    assert all(len(source.draw(1, random).pictures) == 2 for _ in range(20))


def test_half_of_the_papers_pages_see_the_next_picture(tmp_path):
    source = pages(long_page(tmp_path, 2), PAPER, replace(ALL, next_fraction=0.5))
    random = Random(0)
    firsts = Counter(source.draw(0, random).image_indices[0] for _ in range(400))
    # The beginning sees no picture, or the first.
    assert set(firsts) == {0, 1}
    assert 160 < firsts[1] < 240


# Pictures


def test_clip_cuts_the_middle_out_and_the_paper_pads_with_the_mean(tmp_path):
    wide = Image.new("RGB", (128, 64), COLORS["red"])
    clip, whole = (
        pages(
            write(tmp_path / "p.jsonl", {"image": "x", "text": "a"}),
            name,
        ).prepare
        for name in (OPEN, PAPER)
    )
    assert (clip(wide)[0] > 0).all()
    padded = whole(wide)
    assert padded.shape == (3, 64, 64)
    assert not padded[:, :16].any()
    assert not padded[:, 48:].any()
    red = (COLORS["red"][0] / 255 - 0.485) / 0.229
    assert torch.allclose(padded[0, 16:48], torch.tensor(red), atol=1e-5)


def test_half_of_openflamingos_samples_are_mirrored(tmp_path):
    halves = Image.new("RGB", (64, 64), COLORS["white"])
    halves.paste(COLORS["black"], (0, 0, 32, 64))
    halves.save(tmp_path / "halves.png")
    record = mmc4(["a", "b"], ("halves.png", 0, 1.0), ("halves.png", 1, 1.0))
    source = pages(write(tmp_path / "pages.jsonl", record))
    random = Random(0)
    mirrored = Counter()
    for _ in range(100):
        left = source.draw(0, random).pictures[:, 0, 0, :, :32].mean(dim=(1, 2)) > 0
        assert left[0] == left[1]
        mirrored[bool(left[0])] += 1
    assert 30 < mirrored[True] < 70


# Bad records


def test_bad_records_are_named_or_counted(tmp_path):
    name = picture(tmp_path)
    good = mmc4(["a"], (name, 0, 1.0))
    bad = {
        "text_list: is a text, a list is needed": good | {"text_list": "a"},
        "text_list: has a whole number in it": good | {"text_list": [1]},
        "image_info: is missing": {"text_list": ["a"]},
        "matched_text_index: is no index of the 1 texts": mmc4(["a"], (name, 1, 1.0)),
        "matched_sim: is a text": mmc4(["a"], (name, 0, "high")),
        "image_name: is empty": mmc4(["a"], (" ", 0, 1.0)),
        "has no text": mmc4([" "], (name, 0, 1.0)),
        "has no picture that is used": mmc4(["a"]),
        "images: is not as long as texts": {"texts": ["a"], "images": []},
        "one text or one picture in place 0": {"texts": ["a"], "images": ["b"]},
        "text: is missing": {"image": name},
        "frames: is empty": {"frames": [], "text": "a"},
    }
    for problem, record in bad.items():
        file = write(tmp_path / "bad.jsonl", good, record)
        with pytest.raises(BadRecordError) as refused:
            pages(file, PAPER)
        assert f"{file}, record 2" in refused.value.message
        assert problem in refused.value.message
    file = write(tmp_path / "bad.jsonl", good, *bad.values())
    source = pages(file, PAPER, policy=Policy.SKIP)
    assert len(source) == 1
    assert source.skipped.total() == len(bad)


def test_damaged_base64_is_named(tmp_path):
    record = mmc4(["a"], ("a.png", 0, 1.0))
    record["image_info"][0]["image_base64"] = "no base64!"
    with pytest.raises(BadRecordError, match=r"image_base64: is not base64"):
        pages(write(tmp_path / "bad.jsonl", record))


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_bad_picture_is_named_when_it_is_drawn(folder, damage):
    source = pages(folder / PAIRS)
    file = folder / "images" / "0-0.png"
    data = file.read_bytes()
    file.unlink()
    if damage == "truncated":
        file.write_bytes(data[: len(data) // 2])
    with pytest.raises(BadRecordError, match="record 1, field image: "):
        source.draw(0, Random(0))


def test_a_sample_that_would_teach_nothing_is_bad(tmp_path):
    name = picture(tmp_path)
    file = write(tmp_path / "p.jsonl", mmc4(["x" * 50, "b"], (name, 1, 1.0)))
    source = pages(file, reading=replace(ALL, max_tokens=52))
    with pytest.raises(BadRecordError, match="no text after a picture"):
        source.draw(0, Random(0))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl cannot be read"):
        pages(tmp_path / "none.jsonl")


# Batches


@pytest.mark.parametrize("name", [OPEN, PAPER])
def test_a_batch_is_what_the_module_takes(folder, name):
    source = pages(folder / MMC4, name)
    samples = [source.draw(index, Random(index)) for index in range(4)]
    batch = Collate(source.writer.pad_id)(samples)
    most = max(len(sample.pictures) for sample in samples)
    assert batch["vision_x"].shape == (4, most, 1, 3, 64, 64)
    lengths = [len(sample.ids) for sample in samples]
    assert batch["attention_mask"].sum(dim=1).tolist() == lengths
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED).all()
    config = find_model(name).config
    model = flamingo.build(config, torch.float32, None)
    model.set_new_tokens(source.writer.eoc_id, source.writer.media_id)
    assert torch.isfinite(model(**batch).loss)


def test_padding_changes_no_loss(folder):
    source = pages(folder / MMC4, PAPER)
    config = find_model(PAPER).config
    torch.manual_seed(0)
    model = flamingo.build(config, torch.float32, None)
    samples = [source.draw(index, Random(index)) for index in range(2)]
    collate = Collate(source.writer.pad_id)
    counts = [sum(i != IGNORED for i in s.labels[1:]) for s in samples]
    alone = [model(**collate([sample])).loss for sample in samples]
    together = model(**collate(samples)).loss
    expected = sum(n * loss for n, loss in zip(counts, alone, strict=True)) / sum(
        counts
    )
    assert torch.allclose(together, expected, atol=1e-5)


def test_prompts_are_padded_on_the_left(folder):
    source = pages(folder / MMC4)
    samples = [source.draw(index, Random(index)) for index in range(4)]
    batch = Collate(source.writer.pad_id, pads_left=True)(samples)
    assert batch["attention_mask"][:, -1].all()
    for row, sample in enumerate(samples):
        assert batch["input_ids"][row, -len(sample.ids) :].tolist() == sample.ids
        assert batch["image_indices"][row, -1] == len(sample.pictures)


def test_videos_of_different_lengths_make_no_batch(tmp_path):
    name = picture(tmp_path)
    file = write(
        tmp_path / "p.jsonl",
        {"frames": [name] * 8, "text": "a"},
        {"frames": [name] * 4, "text": "b"},
    )
    source = pages(file, PAPER)
    samples = [source.draw(index, Random(0)) for index in range(2)]
    with pytest.raises(ValueError, match="differ"):
        Collate(0)(samples)
