"""PE-Net learns what is seen, and beats what the classes alone would say."""

from contextlib import contextmanager
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("h5py")

from accelerate.state import AcceleratorState  # noqa: E402

from memplan.data.loading import Loading, batches  # noqa: E402
from memplan.models import find_model  # noqa: E402
from memplan.models.pe_net import module  # noqa: E402
from memplan.models.pe_net.data import TrainingScenes, collate  # noqa: E402
from memplan.models.pe_net.evaluation import (  # noqa: E402
    evaluate,
    evaluate_baseline,
)
from memplan.models.pe_net.frequency import FrequencyBaseline  # noqa: E402
from memplan.models.pe_net.generated import VOCABULARY, draw_scenes  # noqa: E402
from memplan.models.pe_net.scenes import usable_scenes  # noqa: E402
from memplan.models.pe_net.visual_genome import (  # noqa: E402
    VisualGenome,
    write_visual_genome,
)
from memplan.recipes.pe_net import (  # noqa: E402
    BATCH_SIZE,
    recipe,
    source,
    start_from_detector,
)
from memplan.runner.training.fitting import (  # noqa: E402
    Fitting,
    make_accelerator,
)

pytestmark = pytest.mark.slow

IMAGE_SIZE = 85
"""Of drawn scenes, which are not resized."""
NUM_TRAINING, NUM_TEST = 200, 24
NUM_STEPS = 110
LOADING = Loading(batch_size=BATCH_SIZE, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    drawn = draw_scenes(NUM_TRAINING + NUM_TEST, 0)
    splits = NUM_TRAINING * ["train"] + NUM_TEST * ["test"]
    write_visual_genome(folder, VOCABULARY, list(zip(splits, drawn, strict=True)))
    return folder


def scenes(folder, split):
    return VisualGenome(folder, split, num_validation=0)


def config():
    return replace(
        find_model("pe-net-tiny").config,
        num_object_classes=len(VOCABULARY.objects),
        num_predicate_classes=len(VOCABULARY.predicates),
    )


def shuffling(samples):
    """A batch whose pictures belong to other scenes of it."""
    batch = collate(samples)
    return batch | {"images": batch["images"].roll(1, dims=0)}


@pytest.fixture(autouse=True)
def another_accelerator():
    """Accelerate keeps one state for a process, precision and all."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def make_fitting(folder, collating=collate, warmup_steps=1, **settings):
    torch.manual_seed(0)
    model = module.build(config(), torch.float32, None)
    start_from_detector(model)
    samples = TrainingScenes(scenes(folder, "train"), config(), IMAGE_SIZE)
    accelerator = make_accelerator(cpu=True, **settings)
    drawn = replace(source(samples, LOADING), collate=collating)
    how = recipe(model, warmup_steps=warmup_steps)
    return Fitting(accelerator, model, how, [drawn])


@pytest.fixture(scope="module")
def trained(folder):
    """The model, and its losses, as published but for the length of the warm-up."""
    fitting = make_fitting(folder)
    losses = [found["scenes"] for found in fitting.fit(NUM_STEPS)]
    return fitting.model, losses


def test_the_loss_falls(trained):
    _, losses = trained
    assert mean(losses[-10:]) < 0.05 * losses[0]


def test_the_same_model_is_lost_with_shuffled_pictures(trained, folder):
    model, _ = trained
    with same_state(model):
        model.train()
        seen, shuffled = (
            mean([loss_of(model, batch) for batch in held_out(folder, way)])
            for way in (collate, shuffling)
        )
    assert seen < 0.5
    assert shuffled > 5 * seen


def test_pictures_of_other_scenes_teach_nothing(trained, folder):
    _, losses = trained
    shuffled = [found["scenes"] for found in make_fitting(folder, shuffling).fit(60)]
    assert mean(shuffled[-10:]) > 3 * mean(losses[-10:])


def test_it_finds_more_relations_than_the_frequencies_say(trained, folder):
    model, _ = trained
    train, test = (usable_scenes(scenes(folder, split)) for split in ("train", "test"))
    found = evaluate(model, test, IMAGE_SIZE, batch_size=BATCH_SIZE).table()
    baseline = FrequencyBaseline(train, VOCABULARY)
    guessed = evaluate_baseline(baseline, test).table()
    for measure in ("R@20", "mR@20", "ng-R@20", "ng-mR@20"):
        assert found[measure] > 0.9
        assert found[measure] > guessed[measure] + 0.2
    # Which is more than chance: one of four predicates.
    assert guessed["R@20"] > 0.35


def test_a_run_that_goes_on_has_the_losses_of_an_unbroken_one(folder, tmp_path):
    unbroken = make_fitting(folder, warmup_steps=10).fit(4)
    first = make_fitting(folder, warmup_steps=10)
    losses = first.fit(2)
    first.save(tmp_path)
    second = make_fitting(folder, warmup_steps=10)
    torch.manual_seed(99)
    assert second.resume(tmp_path) == 2
    assert losses + second.fit(2) == unbroken


def test_mixed_precision_and_accumulation_begin_with_the_same_loss(folder):
    (whole,) = make_fitting(folder).fit(1)
    twice = make_fitting(folder, gradient_accumulation_steps=2)
    (accumulated,) = twice.fit(1)
    assert (twice.steps_done, twice.rounds) == (1, 2)
    assert accumulated["scenes"] == pytest.approx(whole["scenes"], rel=0.2)
    AcceleratorState._reset_state(reset_partial_state=True)
    (mixed,) = make_fitting(folder, mixed_precision="bf16").fit(1)
    assert mixed["scenes"] == pytest.approx(whole["scenes"], rel=0.05)


def held_out(folder, way):
    samples = TrainingScenes(scenes(folder, "test"), config(), IMAGE_SIZE)
    found = batches(samples, way, LOADING)
    return [next(found).content for _ in range(NUM_TEST // BATCH_SIZE)]


@contextmanager
def same_state(model):
    """Statistics of batch norms as they were."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    yield
    model.load_state_dict(state)


@torch.no_grad()
def loss_of(model, batch):
    return float(model(**batch).loss)


def mean(values):
    return sum(values) / len(values)
