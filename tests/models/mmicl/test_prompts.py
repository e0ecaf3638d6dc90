"""The three formats in words, and what they become in tokens."""

import pytest

from memplan.errors import DataError
from memplan.models.mmicl.prompts import (
    FLAN_T5_PLACEHOLDER_ID,
    PROXIES,
    Example,
    Prompts,
    in_context,
    interconnected_images,
    single_image,
)


class Characters:
    """A tokenizer of single characters and of what is added, with T5's end token."""

    pad_token_id = 0

    def __init__(self, size=32100):
        self.size = size
        self.added = {}

    def __len__(self):
        return self.size + len(self.added)

    def add_tokens(self, new_tokens, special_tokens):
        for token in new_tokens:
            self.added.setdefault(token, len(self))
        return len(new_tokens)

    def convert_tokens_to_ids(self, token):
        return self.added[token]

    def __call__(self, text, truncation=False, max_length=None):
        ids = []
        while text:
            token = next((t for t in self.added if text.startswith(t)), text[0])
            ids.append(self.added.get(token) or ord(token))
            text = text[len(token) :]
        kept = ids[: max_length - 1] if truncation else ids
        return {"input_ids": [*kept, 1]}

    def decode(self, token_ids, skip_special_tokens):
        assert all(i < len(self) for i in token_ids)
        return "".join(chr(i) for i in token_ids if 1 < i < self.size)


def test_a_single_image_is_declared_before_its_question():
    assert single_image("What is it?") == "image 0 is <image0>图.\nWhat is it?"


def test_interconnected_images_are_declared_one_by_one():
    text = interconnected_images("Is image 0 like image 1?", 2)
    assert text == (
        "image 0 is <image0>图.\nimage 1 is <image1>图.\nIs image 0 like image 1?"
    )


def test_exemplars_stand_before_the_query_and_are_numbered_through():
    pair = Example(interconnected_images("<image1> is", 2), ("a", "b"), "red")
    query = Example(single_image("Image 0 is"), ("c",), "blue")
    found = in_context([pair], query)
    assert found.text == (
        "image 0 is <image0>图.\nimage 1 is <image1>图.\n<image1> is red\n\n"
        "image 2 is <image2>图.\nImage 2 is"
    )
    assert found.pictures == ("a", "b", "c")
    assert found.answer == "blue"


def test_without_exemplars_the_query_is_as_it_was():
    query = Example(single_image("image 0, route 66?"), ("c",), "blue")
    assert in_context([], query) == query


def test_numbers_that_name_no_picture_of_the_example_stay():
    query = Example("image 0 is <image0>图. Is it on image 7?", ("b",))
    text = in_context([Example(single_image("?"), ("a",), "no")], query).text
    assert text.endswith("image 1 is <image1>图. Is it on image 7?")


def test_there_are_names_for_twenty_pictures():
    assert interconnected_images("?", 20).count("图") == 20
    with pytest.raises(DataError, match="no proxy token for picture 20"):
        interconnected_images("?", 21)


def test_the_placeholder_is_the_first_token_after_those_of_flan_t5():
    prompts = Prompts(Characters(), 32, 32128)
    assert prompts.placeholder_id == FLAN_T5_PLACEHOLDER_ID
    added = prompts.tokenizer.added
    assert [added[proxy] for proxy in PROXIES] == list(range(32101, 32121))


def test_a_picture_takes_as_many_tokens_as_it_has_visual_ones():
    prompts = Prompts(Characters(), 32, 32128)
    ids = prompts.encode(interconnected_images("?", 2))
    assert ids.count(prompts.placeholder_id) == 64
    first = ids.index(prompts.placeholder_id)
    assert ids[first - 1] == 32101
    assert ids[first : first + 33] == [32100] * 32 + [ord(".")]


def test_long_answers_are_cut_at_128_tokens():
    prompts = Prompts(Characters(), 32, 32128)
    assert len(prompts.encode_answer("a" * 500)) == 128
    assert prompts.encode_answer("no") == [ord("n"), ord("o"), 1]


def test_answers_are_read_without_special_tokens_and_space():
    prompts = Prompts(Characters(), 32, 32128)
    assert prompts.decode([0, ord(" "), ord("n"), ord("o"), 1, 0]) == "no"


def test_rows_of_the_table_that_are_no_tokens_are_not_read():
    prompts = Prompts(Characters(), 32, 32128)
    assert prompts.decode([0, ord("n"), 32127, ord("o"), 1]) == "no"


def test_a_table_without_rows_for_the_new_tokens_is_refused():
    with pytest.raises(DataError, match="32121 tokens does not fit a table of 32120"):
        Prompts(Characters(), 32, 32120)


def test_a_tokenizer_that_cannot_pad_is_refused():
    tokenizer = Characters()
    tokenizer.pad_token_id = None
    with pytest.raises(DataError, match="no padding token"):
        Prompts(tokenizer, 32, 32128)
