"""An evaluation on MME is the generation that its batches come to."""

import pytest

from memplan import TrainingPlan, estimate
from memplan.errors import PlanError
from memplan.models import find_model
from memplan.models.workload import ANSWER_TOKENS, QUESTION_TOKENS, generation_of


def plan_of(model="mmicl-flan-t5-xl", **fields):
    return TrainingPlan(model=model, workload="mme", torch="2.14", **fields)


def run_of(model="mmicl-flan-t5-xl", **fields):
    return generation_of(plan_of(model, **fields), find_model(model))


def test_a_question_is_one_image_and_its_text():
    run = run_of(per_device_train_batch_size=8)
    assert run.workload == "generate"
    assert run.seq_len == 32 + QUESTION_TOKENS
    assert run.images_per_sample == 1
    assert run.max_new_tokens == ANSWER_TOKENS
    assert run.per_device_train_batch_size == 8


def test_every_shot_is_one_more_image_and_its_text():
    run = run_of(num_shots=4)
    assert run.images_per_sample == 5
    assert run.seq_len == 5 * (32 + QUESTION_TOKENS)


def test_images_of_flamingo_take_no_places_in_the_prompt():
    assert run_of("flamingo-3b", num_shots=32).seq_len == 33 * QUESTION_TOKENS


def test_lengths_that_are_given_are_kept():
    run = run_of(seq_len=100, max_new_tokens=3, images_per_sample=2)
    assert (run.seq_len, run.max_new_tokens, run.images_per_sample) == (100, 3, 2)


def test_other_workloads_are_what_they_are():
    plan = TrainingPlan(model="gpt2", workload="generate", max_new_tokens=3)
    assert generation_of(plan, find_model("gpt2")) is plan


@pytest.mark.parametrize("model", ["gpt2", "vit-base-patch16-224", "pe-net-tiny"])
def test_a_model_that_answers_nothing_about_pictures_is_refused(model):
    with pytest.raises(PlanError, match="answers no questions about pictures"):
        estimate(plan_of(model))


@pytest.mark.parametrize(
    "model", ["mmicl-flan-t5-xl", "flamingo-3b", "openflamingo-3b", "mmicl-tiny"]
)
def test_the_estimate_is_that_of_the_generation(model):
    plan = plan_of(model, num_shots=2)
    evaluation = estimate(plan)
    generation = estimate(generation_of(plan, find_model(model)))
    assert evaluation.components == generation.components
    assert evaluation.plan == plan
    assert "MME's questions" in " ".join(evaluation.assumptions)


@pytest.mark.parametrize("model", ["mmicl-flan-t5-xl", "openflamingo-3b"])
def test_the_cache_of_keys_and_values_is_functionality_specific(model):
    found = find_model(model)
    report = estimate(plan_of(model, num_shots=3, per_device_train_batch_size=2))
    run = run_of(model, num_shots=3)
    item_bytes = 2
    per_token = found.family.kv_bytes_per_token(found.config, item_bytes)
    num_tokens = 2 * (run.seq_len + run.max_new_tokens)
    assert report.components.functionality_specific == per_token * num_tokens


def test_more_shots_never_need_less():
    needs = [
        estimate(plan_of("openflamingo-9b", num_shots=n)).peak.device_bytes
        for n in (0, 1, 2, 4, 8, 16, 32)
    ]
    assert needs == sorted(needs)
    assert needs[0] < needs[-1]


def test_shots_belong_to_the_evaluation():
    with pytest.raises(PlanError, match="belongs to the workload mme"):
        TrainingPlan(model="flamingo-3b", num_shots=4)
    with pytest.raises(PlanError, match="33 shots"):
        plan_of(num_shots=33)
