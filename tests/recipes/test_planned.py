"""What a plan says of a run holds where a paper's recipe is carried out."""

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("transformers")

import small_flamingo  # noqa: E402
from accelerate.state import AcceleratorState  # noqa: E402

from memplan import TrainingPlan  # noqa: E402
from memplan.data.loading import Loading  # noqa: E402
from memplan.errors import PlanError  # noqa: E402
from memplan.models.flamingo.miniature import MMC4, PAIRS, write_sample  # noqa: E402
from memplan.recipes.flamingo import mixture, recipe  # noqa: E402
from memplan.recipes.planned import planned_fitting  # noqa: E402


@pytest.fixture(autouse=True)
def state_of_its_own():
    """accelerate keeps the precision of the first Accelerator of a process."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


def fitting(folder, **fields):
    write_sample(folder, 12)
    model = small_flamingo.small_model("openflamingo-tiny")
    module, writer = small_flamingo.build(model)
    datasets = {
        name: small_flamingo.pages(folder / file, model, writer)
        for name, file in (("mmc4", MMC4), ("laion", PAIRS))
    }
    loading = Loading(batch_size=1, num_workers=1)
    sources = mixture(model.config, datasets, dict.fromkeys(datasets, loading))
    plan = TrainingPlan(model="openflamingo-tiny", **fields)
    return planned_fitting(plan, module, recipe(module, model), sources, cpu=True)


def test_batch_accumulation_precision_clipping_and_checkpointing_are_the_plans(
    tmp_path,
):
    run = fitting(
        tmp_path,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        precision="bf16-mixed",
        max_grad_norm=0.25,
        activation_checkpointing="full",
    )
    assert run.accelerator.mixed_precision == "bf16"
    assert run.rounds == 2
    assert run.recipe.max_grad_norm == 0.25
    assert {source.loading.batch_size for source in run.sources} == {2}
    assert run.model.perceiver.gradient_checkpointing
    assert all(math.isfinite(loss) for loss in run.step().values())


@pytest.mark.parametrize(
    "fields",
    [
        {"num_gpus": 2, "zero_stage": 2},
        {"trainable": "lora"},
        {"trainable": "lora", "quantization": "int8"},
    ],
)
def test_what_no_paper_did_is_refused(tmp_path, fields):
    with pytest.raises(PlanError, match="one whole copy"):
        fitting(tmp_path, **fields)
