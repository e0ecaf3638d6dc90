"""What the campaign holds, and how it is held against a card."""

import collections
import functools
import importlib.util
from dataclasses import replace

import pytest

from memplan.campaign.plans import Entry, read_campaign, sized_to
from memplan.errors import ProfileError
from memplan.estimate import needed_bytes
from memplan.formulas.optimizers import find_optimizer
from memplan.hardware import find_gpu
from memplan.plan import TrainingPlan
from memplan.runner.training.refusals import check
from memplan.units import GiB

CAMPAIGN = read_campaign()
CARDS = ("rtx-4090", "h100-80gb", "h200-141gb")
SYSTEMS = ("openflamingo-3b", "flamingo-3b", "mmicl-flan-t5-xl", "pe-net-vg150")
TRICKS = {
    "checkpointing": lambda plan: plan.activation_checkpointing == "full",
    "every n": lambda plan: plan.activation_checkpointing.startswith("every-"),
    "selective": lambda plan: plan.activation_checkpointing == "selective",
    "accumulation": lambda plan: plan.gradient_accumulation_steps > 1,
    "fused": lambda plan: find_optimizer(plan.optim).implementation == "fused",
    "sgd": lambda plan: plan.optim == "sgd",
    "adafactor": lambda plan: plan.optim == "adafactor",
    "8-bit": lambda plan: plan.optim == "adamw_8bit",
    "paged": lambda plan: find_optimizer(plan.optim).is_paged,
    "lora": lambda plan: plan.trainable == "lora" and plan.quantization == "none",
    "nf4": lambda plan: plan.quantization == "nf4",
    "int8": lambda plan: plan.quantization == "int8",
    "averages": lambda plan: plan.ema,
    "math": lambda plan: plan.attn_implementation == "math",
    "efficient": lambda plan: plan.attn_implementation == "efficient",
    "flash": lambda plan: plan.attn_implementation == "flash",
    "cudnn": lambda plan: plan.attn_implementation == "cudnn",
    "ddp": lambda plan: plan.num_gpus == 8 and plan.zero_stage == 0,
    "zero 1": lambda plan: plan.zero_stage == 1,
    "zero 2": lambda plan: plan.zero_stage == 2 and plan.sharding == "fsdp2",
    "zero 3": lambda plan: plan.zero_stage == 3 and plan.sharding == "fsdp2",
    "deepspeed": lambda plan: plan.zero_stage == 3 and plan.sharding == "deepspeed",
    "offload": lambda plan: plan.offload_optimizer,
    "fp32": lambda plan: plan.precision == "fp32",
    "fp16": lambda plan: plan.precision == "fp16-mixed",
    "bf16": lambda plan: plan.precision == "bf16-pure",
    "generation": lambda plan: plan.workload == "mme",
}


@functools.cache
def on(slug):
    """The campaign as it is on that card."""
    return sized_to(CAMPAIGN, find_gpu(slug).total_bytes, slug)


@pytest.mark.parametrize("entry", CAMPAIGN, ids=lambda entry: entry.name)
def test_a_plan_of_the_campaign_can_be_run(entry):
    """A library that is missing here would be refused too: that is not its fault."""
    for name in ("torch", "peft", "bitsandbytes", "deepspeed", "timm", "torchvision"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    assert check(entry.plan).name == entry.plan.model


def test_no_plan_is_there_twice():
    kinds = collections.Counter(
        (entry.plan, tuple(entry.environment.items()), entry.batch)
        for entry in CAMPAIGN
    )
    assert {kind: times for kind, times in kinds.items() if times > 1} == {}


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("slug", CARDS)
def test_a_card_of_24_gb_sees_each_trick(slug, trick):
    plans = [sized.entry.plan for sized in on(slug) if not sized.left_out]
    assert any(TRICKS[trick](plan) for plan in plans)


@pytest.mark.parametrize("model", SYSTEMS)
@pytest.mark.parametrize("slug", CARDS)
def test_each_included_system_fits_a_card_of_24_gb_in_some_way(slug, model):
    plans = [sized.entry.plan for sized in on(slug) if not sized.left_out]
    assert any(plan.model == model and not plan.generates for plan in plans)


def test_settings_of_the_allocator_are_tried():
    assert len({str(entry.environment) for entry in CAMPAIGN}) > 3


@pytest.mark.parametrize("model", ["gpt2", "bert-large", "vit-large-patch16-224"])
def test_four_batches_of_a_decoder_and_an_encoder_fit_24_gb(model):
    batches = {
        sized.entry.plan.per_device_train_batch_size
        for sized in on("rtx-4090")
        if sized.entry.plan.model == model and not sized.left_out
    }
    assert len(batches) >= 4


@pytest.mark.parametrize("slug", CARDS)
def test_every_plan_of_the_campaign_has_an_estimate(slug):
    assert [s.entry.name for s in on(slug) if s.needed_bytes is None] == []


@pytest.mark.parametrize("slug", CARDS)
def test_what_is_left_out_cannot_fit_and_what_is_kept_may(slug):
    total = find_gpu(slug).total_bytes
    for sized in on(slug):
        if sized.entry.batch != "exceeds":
            assert bool(sized.left_out) == (sized.needed_bytes > total)
        assert sized.entry.plan.gpu == slug


@pytest.mark.parametrize("slug", CARDS)
def test_a_batch_is_sized_to_the_card(slug):
    total = find_gpu(slug).total_bytes
    found = {s.entry.batch: s for s in on(slug) if s.entry.plan.model == "gpt2"}
    assert 0.8 * total < found["fills"].needed_bytes < total
    assert 1.1 * total < found["exceeds"].needed_bytes < 1.5 * total
    assert not found["exceeds"].left_out


def test_a_batch_that_fills_is_the_largest_that_does():
    entry = Entry(
        name="gpt2.fills", group="", plan=TrainingPlan(model="gpt2"), batch="fills"
    )
    sized = sized_to([entry], 10 * GiB)[0]
    larger = replace(
        sized.entry.plan,
        per_device_train_batch_size=sized.entry.plan.per_device_train_batch_size + 1,
    )
    assert sized.needed_bytes <= 0.9 * 10 * GiB < needed_bytes(larger)


def test_a_plan_without_an_estimate_is_run_all_the_same():
    plan = TrainingPlan(model="gpt2", attn_implementation="cudnn")
    sized = sized_to([Entry(name="it", group="", plan=plan)], GiB)[0]
    assert sized.needed_bytes is None
    assert not sized.left_out


# ---- the file ----

GOOD = """
[base.gpt2]
model = "gpt2"
[[group]]
title = "one"
of = ["gpt2"]
[group.variations]
plain = {}
four = { per_device_train_batch_size = 4, environment = { PYTORCH_ALLOC_CONF = "x" } }
"""


def read(tmp_path, text):
    file = tmp_path / "campaign.toml"
    file.write_text(text)
    return read_campaign(file)


def test_a_group_is_every_variation_of_every_base(tmp_path):
    plain, four = read(tmp_path, GOOD)
    assert (plain.name, plain.group) == ("gpt2.plain", "one")
    assert four.plan == replace(plain.plan, per_device_train_batch_size=4)
    assert four.environment == {"PYTORCH_ALLOC_CONF": "x"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('title = "one"', 'title = "one"\nrank = 1', "rank"),
        ("plain = {}", "plain = { batch_size = 4 }", "unknown key batch_size"),
        ("plain = {}", 'plain = { batch = "half" }', "gpt2.plain"),
        ("plain = {}", 'plain = { precision = "fp7" }', "precision of gpt2.plain"),
        ("plain = {}", 'plain = { optim = "adamm" }', "adamm"),
        ("plain = {}", "plain = { zero_stage = 7 }", "ZeRO stage 7"),
        ('of = ["gpt2"]', 'of = ["bert"]', "base that is not there"),
        ('of = ["gpt2"]', 'of = ["gpt2", "gpt2"]', "there twice"),
        ('title = "one"', "", "title"),
        ("[base.gpt2]", "[bases.gpt2]", "bases"),
        ("plain = {}", "plain = {", "campaign"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path, old, new, said):
    assert old in GOOD
    with pytest.raises(ProfileError, match="holds no campaign") as caught:
        read(tmp_path, GOOD.replace(old, new))
    assert said in caught.value.message


def test_a_file_that_is_not_there_says_so(tmp_path):
    with pytest.raises(ProfileError, match="No such file"):
        read_campaign(tmp_path / "none.toml")
