"""Flamingo learns what is in a picture, and in the right one of several."""

import math

import pytest

torch = pytest.importorskip("torch", reason="models need torch")
pytest.importorskip("accelerate", reason="training runs through it")
pytest.importorskip("transformers", reason="their towers are transformers'")

from random import Random  # noqa: E402

import small_flamingo  # noqa: E402

from memplan.data.loading import Loading  # noqa: E402
from memplan.models.flamingo.data import MMC4, Collate  # noqa: E402
from memplan.models.flamingo.generation import Search, generate  # noqa: E402
from memplan.models.flamingo.miniature import COLORS, write_sample  # noqa: E402
from memplan.models.flamingo.prompts import Chunk  # noqa: E402
from memplan.recipes.flamingo import mixture, recipe  # noqa: E402
from memplan.runner.training.fitting import Fitting, make_accelerator  # noqa: E402

NUM_STEPS = {"openflamingo-tiny": 60, "flamingo-tiny": 90}
CHANCE = math.log(len(COLORS)) / 2
"""Loss of a text that knows no picture: of a colour, and of the end that follows."""


def trained(folder, name, *, shows_colors):
    """A model of pages of up to three pictures, whose text names their colours."""
    write_sample(folder, 48, shows_colors=shows_colors)
    model = small_flamingo.small_model(name)
    module, writer = small_flamingo.build(model)
    source = small_flamingo.pages(folder / MMC4, model, writer)
    key = "m3w" if model.config.is_paper else "mmc4"
    run = Fitting(
        make_accelerator(cpu=True),
        module,
        recipe(module, model, learning_rate=2e-3, num_warmup_steps=10),
        mixture(model.config, {key: source}, {key: Loading(batch_size=8)}),
    )
    losses = [loss for step in run.fit(NUM_STEPS[name]) for loss in step.values()]
    return module.eval(), source, sum(losses[-8:]) / 8


@pytest.mark.slow
@pytest.mark.parametrize("name", NUM_STEPS)
def test_the_answer_is_read_in_the_right_picture(name, tmp_path):
    module, source, loss = trained(tmp_path / "shown", name, shows_colors=True)
    _, _, blind = trained(tmp_path / "any", name, shows_colors=False)
    assert loss < 0.5 * CHANCE
    assert blind > 0.8 * CHANCE
    assert loss < 0.4 * blind

    # The same model with the pictures of each page in another order.
    samples = [source.draw(index, Random(0)) for index in range(48)]
    several = [s for s in samples if len(s.pictures) == 3]
    batch = Collate(source.writer.pad_id)(several)
    with torch.no_grad():
        right = module(**batch).loss
        batch["vision_x"] = batch["vision_x"].roll(1, dims=1)
        wrong = module(**batch).loss
    assert wrong > 2 * CHANCE
    assert right < 0.2 * wrong

    # And what it answers, after pictures of other colours.
    written = source.writer.write(
        [Chunk(color) for color in ("red", "green", "")], is_whole=False
    )
    pictures = {color: picture_of(samples, source, color) for color in COLORS}
    right_answers = 0
    for color, picture in pictures.items():
        shown = torch.stack([pictures["red"], pictures["green"], picture])
        (answer,) = generate(
            module,
            Search(max_new_tokens=2, end_token_ids=source.writer.end_ids),
            input_ids=torch.tensor([written.ids]),
            vision_x=shown[None],
            image_indices=torch.tensor([written.seen()]),
        )
        right_answers += source.writer.read(answer) == color
    assert right_answers >= 6


def picture_of(samples, source, color):
    """A picture that some page calls so."""
    (token,) = source.writer.tokenizer.encode(color, add_special_tokens=False)
    for sample in samples:
        if token in sample.ids:
            return sample.pictures[sample.image_indices[sample.ids.index(token)] - 1]
    raise AssertionError(color)
