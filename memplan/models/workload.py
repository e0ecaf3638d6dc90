"""What an evaluation on MME comes to: a generation of certain lengths."""

from dataclasses import replace

from memplan.errors import PlanError
from memplan.models.catalogue import Model
from memplan.plan import TrainingPlan

QUESTION_TOKENS = 48
"""Of text an example has in the prompt: the question, what frames it, and the answer.
MME's questions are a sentence or two."""
ANSWER_TOKENS = 10
"""Generated for a question: the official tool reads four characters of them."""


def generation_of(plan: TrainingPlan, model: Model) -> TrainingPlan:
    """The plan, its workload `mme` as the generation of one batch of questions.

    Raises:
        PlanError: the model answers no questions about pictures.
    """
    if plan.workload != "mme":
        return plan
    family = model.family
    answers = family.kv_bytes_per_token is not None
    if not answers or not {"tokens", "images"} <= set(family.inputs):
        raise PlanError(
            f"{model.name} answers no questions about pictures.",
            hint="MME is for Flamingo, MMICL, BLIP-2 and InstructBLIP.",
        )
    # A preset's frozen parts may be stored in less; asked for fp32, all is.
    is_exact = plan.precision in ("fp32", "tf32")
    num_examples = plan.num_shots + 1
    image_size = plan.image_size or family.default_image_size(model.config)
    tokens = family.image_tokens(model.config, image_size) + QUESTION_TOKENS
    return replace(
        plan,
        workload="generate",
        seq_len=plan.seq_len or num_examples * tokens,
        images_per_sample=plan.images_per_sample or num_examples,
        max_new_tokens=plan.max_new_tokens or ANSWER_TOKENS,
        num_shots=0,
        frozen_dtype=plan.frozen_dtype or ("fp32" if is_exact else None),
    )


def lengths_of(asked: TrainingPlan, run: TrainingPlan) -> tuple[str, ...]:
    """The lengths of a batch of MME's questions, as an assumption of a report."""
    if asked.workload != "mme":
        return ()
    images = f"{run.images_per_sample} image{'s' if run.images_per_sample != 1 else ''}"
    said = (
        f"a batch of {run.per_device_train_batch_size} of MME's questions: prompts of "
        f"{run.seq_len} tokens with {images}, {run.max_new_tokens} new tokens"
    )
    if asked.seq_len is None:
        said += f"; {QUESTION_TOKENS} tokens of text to an image are taken for granted"
    return (said,)
