"""Texts with pictures as token ids, as the papers write them."""

from dataclasses import replace

import pytest

from memplan.errors import DataError
from memplan.models import find_model

pytest.importorskip("tokenizers", reason="the writer takes transformers' tokenizers")
pytest.importorskip("transformers", reason="the writer takes its tokenizers")

from memplan.models.flamingo.miniature import byte_tokenizer
from memplan.models.flamingo.prompts import (
    CAPTION,
    VQA,
    Chunk,
    Example,
    Writer,
    Written,
    few_shot,
)

PAGE = [Chunk("Cute!", has_picture=False), Chunk("A puppy."), Chunk("A cat.")]
EXAMPLES = [Example("cat", "what?"), Example("dog", "who?"), Example("cow", "where?")]


def writer(name, **changes):
    config = find_model(name).config
    text = replace(config.text_config, **changes)
    return Writer(replace(config, text_config=text), byte_tokenizer())


def text(writer, written):
    return writer.tokenizer.decode(written.ids, skip_special_tokens=False)


def test_the_paper_writes_a_beginning_and_plain_tags():
    flamingo = writer("flamingo-tiny")
    written = flamingo.write(PAGE)
    assert text(flamingo, written) == (
        "<s>Cute!<EOC><image>A puppy.<EOC><image>A cat.<EOC></s>"
    )
    assert len(flamingo.image_ids) == len("<image>")


def test_openflamingo_has_tokens_for_both_tags_and_for_padding():
    openflamingo = writer("openflamingo-tiny")
    written = openflamingo.write(PAGE)
    assert text(openflamingo, written) == (
        "Cute!<|endofchunk|><image>A puppy.<|endofchunk|><image>A cat."
        "<|endofchunk|></s>"
    )
    # 256 bytes, a beginning and an end; then the three that it adds.
    ids = [openflamingo.eoc_id, *openflamingo.image_ids, openflamingo.pad_id]
    assert ids == [258, 259, 260]


def test_nothing_stands_before_the_first_of_chunks():
    openflamingo = writer("openflamingo-tiny")
    written = openflamingo.write([Chunk("A puppy.")], is_whole=False)
    assert text(openflamingo, written) == "<image>A puppy."


@pytest.mark.parametrize("name", ["flamingo-tiny", "openflamingo-tiny"])
def test_a_text_brings_no_tags_of_its_own(name):
    made = writer(name)
    written = made.write([Chunk(f"a<image>b{made.end_of_chunk}c")])
    assert written.pictures == [1 if made.is_paper else 0]
    assert written.ids.count(made.eoc_id) == 1
    assert "abc" in text(made, written)


def test_the_learnt_row_takes_the_unknown_tokens_place_in_a_full_vocabulary():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"?": 0, "a": 1}, unk_token="?"))
    config = find_model("flamingo-tiny").config
    small = replace(config, text_config=replace(config.text_config, vocab_size=2))
    full = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")
    assert Writer(small, full).eoc_id == 0
    assert len(full) == 2


def test_a_tokenizer_larger_than_the_vocabulary_is_refused():
    with pytest.raises(DataError, match="up to 260, and the model a vocabulary of 260"):
        writer("openflamingo-tiny", vocab_size=260)


# What a token sees


def test_a_token_sees_the_last_picture_or_the_next():
    written = Written(list(range(7)), pictures=[2, 5])
    assert written.seen() == [0, 0, 1, 1, 1, 2, 2]
    assert written.seen(follows=True) == [1, 1, 1, 2, 2, 2, 0]


def test_no_picture_is_none_before_and_after():
    written = Written([1, 2])
    assert written.seen() == written.seen(follows=True) == [0, 0]


# What a loss asks for


def asked(writer, written):
    """The text that is predicted."""
    ids = [i for i, yes in zip(written.ids, written.predicted, strict=True) if yes]
    return writer.tokenizer.decode(ids, skip_special_tokens=False)


def test_the_paper_predicts_all_text():
    flamingo = writer("flamingo-tiny")
    predicted = asked(flamingo, flamingo.write(PAGE))
    assert predicted == "Cute!<EOC>A puppy.<EOC>A cat.<EOC></s>"


def test_openflamingo_predicts_what_stands_after_a_picture():
    made = writer("openflamingo-tiny")
    page = made.write(PAGE, learns_end=False)
    assert asked(made, page) == "A puppy.<|endofchunk|>A cat.<|endofchunk|>"
    pair = made.write([Chunk("A cat.")])
    assert asked(made, pair) == "A cat.<|endofchunk|></s>"


# Few shots


def prompt(name, tasks, num_shots, question=""):
    made = writer(name)
    task = tasks[find_model(name).config.variant]
    chunks = few_shot(task, EXAMPLES, num_shots, question)
    return text(made, made.write(chunks, is_whole=False))


def test_captions_of_two_shots():
    assert prompt("flamingo-tiny", CAPTION, 2) == (
        "<s><image>Output: cat<EOC><image>Output: dog<EOC><image>Output:"
    )
    assert prompt("openflamingo-tiny", CAPTION, 2) == (
        "<image>Output:cat<|endofchunk|><image>Output:dog<|endofchunk|><image>Output:"
    )


def test_questions_of_one_shot():
    assert prompt("flamingo-tiny", VQA, 1, "which?") == (
        "<s><image>Question: what? Answer: cat<EOC><image>Question: which? Answer:"
    )
    assert prompt("openflamingo-tiny", VQA, 1, "which?") == (
        "<image>Question:what? Short answer:cat<|endofchunk|>"
        "<image>Question:which? Short answer:"
    )


def test_no_shots_are_two_examples_without_their_pictures():
    assert prompt("flamingo-tiny", CAPTION, 0) == (
        "<s>Output: cat<EOC>Output: dog<EOC><image>Output:"
    )


@pytest.mark.parametrize(("num_shots", "takes"), [(0, 2), (4, 4)])
def test_too_few_examples_are_refused(num_shots, takes):
    task = CAPTION["flamingo"]
    with pytest.raises(DataError, match=f"takes {takes} examples"):
        few_shot(task, EXAMPLES[:1], num_shots)
