"""The highest points of the phases of a step, and what they begin with."""

from memplan import TrainingPlan, estimate


def steady(plan: TrainingPlan) -> dict[str, tuple[int, int]]:
    """Peak and end of each phase of the steady step."""
    return {
        phase.phase: (phase.peak_allocated_bytes, phase.end_allocated_bytes)
        for phase in estimate(plan).phases
        if phase.step == 2
    }


def test_the_optimizers_phase_begins_with_what_backward_left():
    """Adapters over 8-bit weights pin their inputs to the graph; the step is small."""
    plan = TrainingPlan(
        model="bert-large", trainable="lora", quantization="int8", optim="sgd"
    )
    phases = steady(plan)
    assert phases["optimizer"][0] == phases["backward"][1]
    assert phases["optimizer"][0] > 1.5 * phases["optimizer"][1]


def test_clipping_and_stepping_are_higher_where_all_is_trained():
    phases = steady(TrainingPlan(model="gpt2"))
    assert phases["optimizer"][0] > phases["backward"][1]


def test_what_a_checkpoint_made_want_a_gradient_is_held_with_it():
    """The embeddings' output under adapters, until the loss is let go."""
    plan = TrainingPlan(
        model="tinyllama-1.1b",
        trainable="lora",
        lora_rank=1,
        precision="fp32",
        activation_checkpointing="full",
        per_device_train_batch_size=4,
        seq_len=512,
    )
    phases = steady(plan)
    left = phases["backward"][1] - phases["optimizer"][1]
    output_bytes = 4 * 4 * 512 * 2048
    assert 2 * output_bytes < left < 2.1 * output_bytes
