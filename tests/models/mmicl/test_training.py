"""Both stages: what moves, how it moves, and that the right picture is learned from."""

import copy
import math
import re
from dataclasses import replace

import pytest

from memplan.errors import UnknownNameError
from memplan.models import find_model

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("torchvision", reason="it resizes pictures")
pytest.importorskip("accelerate", reason="training runs through it")
pytest.importorskip("transformers", reason="the towers are transformers'")

from memplan.data.loading import Loading, batches  # noqa: E402
from memplan.models.mmicl.miniature import (  # noqa: E402
    COLORS,
    write_sample,
)
from memplan.recipes.mmicl import (  # noqa: E402
    STAGES,
    WEIGHT_DECAY,
    recipe,
    source,
    warmup,
)
from memplan.runner.training.fitting import Fitting, make_accelerator  # noqa: E402

TINY = find_model("mmicl-tiny")
NUM_STEPS = 140
LEARNING_RATE = 2e-3
WHOLE = Loading(batch_size=100)


def fitting(model, samples, stage, num_steps, learning_rate=LEARNING_RATE, **loading):
    return Fitting(
        make_accelerator(cpu=True),
        model,
        recipe(model, TINY, stage, num_steps, learning_rate),
        [source(samples, Loading(**{"batch_size": 16} | loading))],
    )


def one_batch(samples):
    return next(batches(samples, source(samples, WHOLE).collate, WHOLE)).content


@torch.no_grad()
def loss_of(model, batch):
    return float(model.eval()(**batch).loss)


@pytest.fixture(scope="module")
def samples(read, tmp_path_factory):
    """Records that ask for one of two pictures, to train on and to test on."""
    folders = [tmp_path_factory.mktemp(name) for name in ("train", "test")]
    return [
        read(write_sample(folder, 200, num_pictures=(2,), seed=seed), max_exemplars=0)
        for seed, folder in enumerate(folders)
    ]


@pytest.fixture(scope="module")
def trained(new_model, samples):
    """A model that learned colors, whole: it stands for the pretrained one."""
    model = new_model()
    fitting(model, samples[0], "all", NUM_STEPS).fit(NUM_STEPS)
    return model


@pytest.mark.slow
def test_the_answer_is_read_in_the_picture_that_is_asked_for(trained, samples):
    batch = one_batch(samples[1])
    pictures = batch["pixel_values"]
    right = loss_of(trained, batch)
    exchanged = torch.cat([pictures[:, :2].flip(1), pictures[:, 2:]], dim=1)
    of_another = pictures.roll(1, dims=0)
    for wrong in (exchanged, of_another):
        assert loss_of(trained, batch | {"pixel_values": wrong}) > 4 * right


@pytest.mark.slow
def test_from_shuffled_pictures_the_same_model_learns_nothing(
    trained, new_model, samples
):
    train, test = samples
    blind = new_model()
    # Half as long is enough: it soon knows how often each color is, and no more.
    fitting(blind, Shuffled(train), "all", NUM_STEPS).fit(NUM_STEPS // 2)
    shuffled = loss_of(blind, one_batch(Shuffled(test)))
    # Of the tokens of an answer, 7 at most, one has to be guessed.
    chance = math.log(len(COLORS)) / (len("yellow") + 1)
    assert shuffled > chance
    assert loss_of(trained, one_batch(test)) < 0.4 * shuffled


class Shuffled:
    """Samples that have the pictures of others."""

    def __init__(self, samples):
        self.samples = samples
        self.prompts = samples.prompts

    def __len__(self):
        return len(self.samples)

    def draw(self, index, random):
        other = self.samples.draw(random.randrange(len(self)), random)
        own = self.samples.draw(index, random)
        return replace(own, pixel_values=other.pixel_values)


@pytest.mark.slow
def test_generation_says_the_color(trained, samples):
    test = samples[1]
    batch = one_batch(test)
    labels = batch.pop("labels")
    answers = trained.eval().generate(**batch, max_new_tokens=8)
    expected = [test.prompts.decode(row[row >= 0]) for row in labels]
    found = [test.prompts.decode(row) for row in answers]
    right = sum(a == b for a, b in zip(found, expected, strict=True))
    assert right >= 80


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_learns_and_moves_its_own_parameters_alone(trained, samples, stage):
    """Both begin with a projection that nobody trained."""
    model = copy.deepcopy(trained)
    model.language_projection.reset_parameters()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    batch = one_batch(samples[1])
    at_first = loss_of(model, batch)
    fitting(model, samples[0], stage, 40, batch_size=12).fit(40)
    assert loss_of(model, batch) < 0.5 * at_first
    patterns = TINY.trainable_sets[stage]
    for name, parameter in model.named_parameters():
        is_trained = any(re.search(pattern, name) for pattern in patterns)
        assert parameter.requires_grad == is_trained
        assert is_trained or torch.equal(parameter, before[name])
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert "language_projection.weight" in changed
    decoder = "language_model.decoder.block.2.layer.0.SelfAttention"
    assert (f"{decoder}.v.weight" in changed) == (stage == "stage-2-qv")
    assert ("query_tokens" in changed) == (stage == "stage-1")


def test_exemplars_train_too(new_model, read, tmp_path):
    samples = read(write_sample(tmp_path, 8), max_exemplars=3)
    losses = fitting(new_model(), samples, "stage-2-qv", 2, batch_size=4).fit(2)
    assert all(math.isfinite(step["mic"]) for step in losses)


@pytest.mark.slow
def test_a_resumed_run_has_the_losses_of_an_unbroken_one(new_model, read, tmp_path):
    samples = read(write_sample(tmp_path, 16))

    def run():
        model = new_model()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.2
        return fitting(model, samples, "stage-2-qv", 8, batch_size=2)

    unbroken = run().fit(5)
    first = run()
    losses = first.fit(3)
    first.save(tmp_path / "checkpoints")
    second = run()
    assert second.resume(tmp_path / "checkpoints") == 3
    assert losses + second.fit(2) == unbroken


def test_the_rate_rises_as_the_logarithm_and_stays():
    assert warmup(0, 20) == 0.0
    assert warmup(9, 20) == pytest.approx(math.log(10) / math.log(20))
    assert warmup(19, 20) == warmup(500, 20) == 1.0
    assert warmup(1, 0) == 1.0  # DeepSpeed takes two steps at least


def test_a_fifth_of_a_stage_is_its_warmup_and_all_is_decayed(new_model):
    made = recipe(new_model(), TINY, "stage-1", 100, 1e-4)
    (group,) = made.optimizer.param_groups
    assert group["weight_decay"] == WEIGHT_DECAY == 5e-4
    rates = []
    for _ in range(25):
        rates.append(group["lr"])
        made.optimizer.step()
        made.schedule.step()
    assert rates.index(1e-4) == 19
    assert rates[-1] == 1e-4


def test_each_stage_has_the_rate_of_its_script(new_model):
    model = new_model()
    rates = [
        recipe(model, TINY, stage, 1).optimizer.defaults["lr"]
        for stage in ("stage-1", "stage-2-qv", "stage-2-cross-qv")
    ]
    assert rates == [5e-5, 1e-4, 1e-4]


def test_a_stage_that_is_not_there_is_named(new_model):
    with pytest.raises(UnknownNameError, match="stage-7"):
        recipe(new_model(), TINY, "stage-7", 100)
