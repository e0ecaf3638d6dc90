"""MIC on disk: what is read, drawn and collated, and what is wrong with the rest."""

import json
import pickle
from random import Random

import pytest

torch = pytest.importorskip("torch", reason="batches are its tensors")
pytest.importorskip("torchvision", reason="it resizes pictures")
pytest.importorskip("transformers", reason="it normalises pictures")

from memplan.data import Policy  # noqa: E402
from memplan.data.loading import Loading, batches  # noqa: E402
from memplan.data.records import BadRecordError  # noqa: E402
from memplan.errors import DataError  # noqa: E402
from memplan.models.mmicl.data import IGNORED, Collate  # noqa: E402
from memplan.models.mmicl.miniature import COLORS, write_sample  # noqa: E402


@pytest.fixture
def file(tmp_path):
    return write_sample(tmp_path, 10)


def rewrite(file, number, **fields):
    """Change fields of one record; None takes a field away."""
    lines = file.read_text().splitlines()
    record = json.loads(lines[number - 1]) | fields
    kept = {name: value for name, value in record.items() if value is not None}
    lines[number - 1] = json.dumps(kept)
    file.write_text("\n".join(lines))


def with_pictures(count):
    """Fields of a record of so many pictures."""
    text = "".join(f"image {i} is <image{i}>图.\n" for i in range(count))
    return {"input_text": f"{text}?", "input_image": ["pictures/0-0.png"] * count}


def test_the_sample_is_valid_and_has_one_and_several_pictures(file, read):
    mic = read(file, max_exemplars=0)
    drawn = [mic.draw(index, Random(0)) for index in range(len(mic))]
    assert len(drawn) == 10
    assert {len(sample.pixel_values) for sample in drawn} == {1, 2, 3}


def test_a_record_becomes_prompt_pictures_and_answer(file, read, prompts):
    mic = read(file, max_exemplars=0)
    content = mic.examples[0].content
    sample = mic.draw(0, Random(0))
    assert sample.input_ids == prompts.encode(content.text)
    assert sample.labels == prompts.encode_answer(content.answer)
    assert content.answer in COLORS
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    asked = int(content.text[content.text.rindex("<image") + 6])
    color = torch.tensor(COLORS[content.answer]) / 255
    seen = sample.pixel_values[asked, :, 0, 0]
    torch.testing.assert_close(seen, (color - mean) / deviation)


def test_the_path_of_a_single_picture_needs_no_list(file, read):
    rewrite(file, 1, **with_pictures(1) | {"input_image": "./pictures/0-0.png"})
    assert len(read(file, max_exemplars=0).draw(0, Random(0)).pixel_values) == 1


def test_workers_of_any_kind_can_be_given_the_records(file, read):
    mic = read(file)
    again = pickle.loads(pickle.dumps(mic))
    assert again.draw(0, Random(0)).input_ids == mic.draw(0, Random(0)).input_ids


def test_pictures_may_lie_in_another_folder(file, read, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "pictures").rename(tmp_path / "elsewhere" / "pictures")
    mic = read(file, folder=tmp_path / "elsewhere")
    assert mic.draw(0, Random(0))


def test_none_to_five_exemplars_are_drawn_evenly(tmp_path, read):
    mic = read(write_sample(tmp_path, 30, num_pictures=(1,)))
    random = Random(0)
    counts = [len(mic.draw(0, random).pixel_values) - 1 for _ in range(120)]
    assert set(counts) == set(range(6))
    assert max(counts.count(n) for n in range(6)) < 2 * 120 / 6


def test_a_query_is_not_its_own_exemplar(tmp_path, read):
    mic = read(write_sample(tmp_path, 3, num_pictures=(1,)), max_exemplars=2)
    random = Random(0)
    for _ in range(20):
        names = [it.record.number for it in mic._exemplars(1, 10, random)]
        assert 2 not in names
        assert len(set(names)) == len(names)


def test_draws_follow_from_their_generator(file, read):
    mic = read(file)
    first, second = mic.draw(3, Random(5)), mic.draw(3, Random(5))
    assert first.input_ids == second.input_ids
    assert torch.equal(first.pixel_values, second.pixel_values)


def test_exemplars_without_room_are_left_out(tmp_path, read):
    mic = read(write_sample(tmp_path, 12, num_pictures=(3,)), max_pictures=8)
    drawn = [mic.draw(0, Random(seed)) for seed in range(20)]
    assert max(len(sample.pixel_values) for sample in drawn) == 6
    alone = read(tmp_path / "mic.jsonl", max_exemplars=0).draw(0, Random(0))
    limit = len(alone.input_ids)
    short = read(tmp_path / "mic.jsonl", max_tokens=limit)
    for seed in range(10):
        assert short.draw(0, Random(seed)).input_ids == alone.input_ids


def test_records_of_more_than_ten_pictures_are_left_out(file, read):
    rewrite(file, 2, **with_pictures(11))
    rewrite(file, 3, **with_pictures(10))
    mic = read(file)
    assert (len(mic), mic.num_left_out) == (9, 1)


def test_ten_pictures_are_too_many_for_a_collator_of_eight(file, read):
    rewrite(file, 3, **with_pictures(10))
    with pytest.raises(BadRecordError, match=r"3, field input_image: has more than 8 "):
        read(file, max_pictures=8).draw(2, Random(0))


def test_a_prompt_of_too_many_tokens_is_a_bad_record(file, read):
    with pytest.raises(BadRecordError, match="field input_text: takes more than 10 "):
        read(file, max_tokens=10).draw(0, Random(0))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"input_text": None}, "field input_text: is missing"),
        ({"input_text": " "}, "field input_text: is empty"),
        ({"output_text": ""}, "field output_text: is empty"),
        ({"output_text": 7}, "field output_text: is a whole number, a text is needed"),
        ({"input_image": None}, "field input_image: is missing"),
        ({"input_image": 3}, "field input_image: is a whole number, a list is needed"),
        ({"input_image": [3]}, "field input_image: has a whole number in it"),
        ({"input_image": []}, "field input_image: is empty"),
        ({"input_text": "What?"}, "field input_text: has not one 图 for each picture"),
    ],
)
def test_a_bad_record_is_named_or_skipped_and_counted(file, read, fields, problem):
    rewrite(file, 4, **fields)
    with pytest.raises(DataError, match=rf"mic\.jsonl, record 4, {problem}"):
        read(file)
    mic = read(file, policy=Policy.SKIP)
    assert len(mic) == 9
    assert mic.skipped.total() == 1


def test_a_line_that_is_not_json_is_named(file, read):
    file.write_text("{\n" + file.read_text())
    with pytest.raises(DataError, match="record 1: is not JSON"):
        read(file)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "that is not there"), (b"no picture", "no picture that can be read")],
)
def test_a_bad_picture_is_named_or_passed_over(
    file, read, prompts, tmp_path, content, problem
):
    rewrite(file, 1, **with_pictures(1) | {"input_image": ["broken.png"]})
    if content is not None:
        (tmp_path / "broken.png").write_bytes(content)
    mic = read(file, max_exemplars=0)
    with pytest.raises(DataError, match=f"record 1, field input_image: .*{problem}"):
        mic.draw(0, Random(0))
    loading = Loading(batch_size=10, shuffles=False, policy=Policy.SKIP)
    batch = next(batches(mic, Collate(prompts.pad_id), loading))
    assert len(batch.content["labels"]) == 10
    assert len(batch.skipped) == 1


@pytest.mark.parametrize("padded_pictures", [12, 8])
def test_a_batch_is_padded_in_pictures_tokens_and_labels(
    file, read, prompts, padded_pictures
):
    mic = read(file, max_exemplars=0)
    samples = [mic.draw(index, Random(0)) for index in range(4)]
    batch = Collate(prompts.pad_id, padded_pictures)(samples)
    assert batch["pixel_values"].shape == (4, padded_pictures, 3, 56, 56)
    for index, sample in enumerate(samples):
        n, L = len(sample.pixel_values), len(sample.input_ids)
        assert batch["img_mask"][index].tolist() == [1] * n + [0] * (
            padded_pictures - n
        )
        assert torch.equal(batch["pixel_values"][index, :n], sample.pixel_values)
        assert batch["input_ids"][index, :L].tolist() == sample.input_ids
        assert batch["attention_mask"][index].sum() == L
        answer = [i for i in batch["labels"][index].tolist() if i != IGNORED]
        assert answer == sample.labels


def test_workers_and_pinning_change_nothing(file, read, prompts):
    mic, collate = read(file), Collate(prompts.pad_id)
    first = next(batches(mic, collate, Loading(batch_size=4))).content
    second = next(batches(mic, collate, Loading(batch_size=4, num_workers=1))).content
    assert all(torch.equal(first[name], second[name]) for name in first)
