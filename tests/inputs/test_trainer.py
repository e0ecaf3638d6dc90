"""TrainingArguments and the model at hand into plans, with the real libraries."""

import pytest
import torch
from torch import nn

from memplan.errors import ModelConfigError, PlanError
from memplan.inputs.batch import named_arguments
from memplan.inputs.optimizer import optimizer_name
from memplan.inputs.trainer import found_in

transformers = pytest.importorskip("transformers")

# PEFT asks for the older name of activation checkpointing.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")

CARD = {"gpu": "rtx-4090"}


def llama(**changes):
    """Two layers, built here: no network."""
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 101,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = transformers.LlamaConfig(**{**sizes, **changes})
    return transformers.LlamaForCausalLM(config)


def tokens(size=3, length=17):
    ids = torch.zeros(size, length, dtype=torch.long)
    return {"input_ids": ids, "labels": ids}


@pytest.fixture
def arguments(tmp_path):
    def make(**changes):
        common = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": []}
        return transformers.TrainingArguments(**{**common, **changes})

    return make


@pytest.fixture
def found(arguments):
    """Of a model with its optimizer, under these arguments."""

    def find(model, batch=None, optimizer=None, **changes):
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = optimizer or torch.optim.AdamW(trained)
        return found_in(arguments(**changes), model, optimizer, batch or tokens(), CARD)

    return find


def test_the_batch_that_came_counts(found):
    plan = found(llama(), per_device_train_batch_size=8).plan
    assert (plan.per_device_train_batch_size, plan.seq_len) == (3, 17)
    assert (plan.gpu, plan.num_gpus) == ("rtx-4090", 1)


def test_arguments_of_a_step_are_read(found):
    plan = found(llama(), gradient_accumulation_steps=4, max_grad_norm=0.0).plan
    assert plan.gradient_accumulation_steps == 4
    assert plan.max_grad_norm == 0.0


def test_the_formula_has_the_parameters_of_the_model(found):
    live = found(llama())
    report = live.estimate()
    assert report.model.parameters == live.parameters
    assert not any("the formula has" in line for line in report.unsupported)


def test_a_model_with_more_than_the_formula_knows_is_said_to(found):
    model = llama()
    model.extra = nn.Linear(64, 64)
    assert any("the formula has" in s for s in found(model).estimate().unsupported)


@pytest.mark.parametrize(
    ("dtype", "changes", "precision"),
    [
        (torch.float32, {}, "fp32"),
        (torch.float32, {"bf16": True}, "bf16-mixed"),
        (torch.bfloat16, {"bf16": True}, "bf16-pure"),
        (torch.bfloat16, {}, "bf16-pure"),
    ],
)
def test_weights_and_autocast_make_the_precision(found, dtype, changes, precision):
    assert found(llama().to(dtype), **changes).plan.precision == precision


def test_weights_trained_in_fp16_have_no_formula(found):
    with pytest.raises(PlanError, match="Weights trained in fp16 have no formula"):
        found(llama().half())


@pytest.mark.parametrize("spelling", ["activation", "gradient"])
def test_both_spellings_of_checkpointing_are_read(found, spelling):
    asked = {f"{spelling}_checkpointing": True}
    assert found(llama(), **asked).plan.activation_checkpointing == "full"


def test_every_other_layer_is_checkpointed(found):
    plan = found(
        llama(),
        activation_checkpointing=True,
        activation_checkpointing_kwargs={"every_n_layers": 2},
    ).plan
    assert plan.activation_checkpointing == "every-2"


def test_a_model_that_checkpoints_by_itself_is_seen(found):
    model = llama()
    model.activation_checkpointing_enable()
    assert found(model).plan.activation_checkpointing == "full"


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_the_attention_of_the_model_is_read(found, name):
    model = llama()
    model.set_attn_implementation(name)
    expected = {"eager": "eager", "sdpa": "auto"}[name]
    assert found(model).plan.attn_implementation == expected


def test_lora_of_peft_is_read(found):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj", "v_proj"])
    live = found(peft.get_peft_model(llama().to(torch.bfloat16), config), bf16=True)
    plan = live.plan
    assert (plan.trainable, plan.lora_rank, plan.lora_dropout) == ("lora", 4, 0.1)
    assert plan.lora_targets == ("q_proj", "v_proj")
    assert (plan.precision, plan.frozen_dtype) == ("bf16-mixed", "bf16")
    assert live.estimate().model.parameters == live.parameters


def test_what_of_lora_is_not_read_is_listed(found):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])
    live = found(peft.get_peft_model(llama(), config))
    assert any("modules_to_save" in line for line in live.not_read)


def test_other_adapters_have_no_formula(found):
    peft = pytest.importorskip("peft")
    config = peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[])
    with pytest.raises(PlanError, match="IA3"):
        found(peft.get_peft_model(llama(), config))


def test_a_part_that_trains_is_found_in_every_layer(found):
    model = llama()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("mlp" in name)
    report = found(model).estimate()
    assert report.model.trainable_parameters == 2 * 3 * 64 * 128


def test_some_layers_of_a_stack_are_refused(found):
    model = llama()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layers.1." in name)
    with pytest.raises(PlanError, match="Some layers of a stack train"):
        found(model)


def test_a_head_that_the_formula_does_not_have_is_refused(found):
    config = llama().config
    with pytest.raises(ModelConfigError, match="SequenceClassification"):
        found(transformers.LlamaForSequenceClassification(config))


def test_an_architecture_that_is_not_covered_says_so(found):
    class Config(transformers.PreTrainedConfig):
        model_type = "of-nobody"

    class Model(nn.Linear):
        config = Config()

    with pytest.raises(ModelConfigError, match="'of-nobody'"):
        found(Model(3, 3))


def test_a_model_within_a_model_is_found(found):
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.language = llama()

    assert found(Wrapper()).plan.model == "LlamaForCausalLM"


def test_a_module_of_the_user_s_own_has_no_formula(found):
    with pytest.raises(PlanError, match="holds no model with a config"):
        found(nn.Linear(3, 3))


def test_a_batch_without_tokens_or_pictures_has_no_formula(found):
    with pytest.raises(PlanError, match="neither input_ids nor pixel_values"):
        found(llama(), {"x": torch.zeros(3)})


def test_pictures_of_a_batch_are_read(found):
    config = transformers.ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    model = transformers.ViTForImageClassification(config)
    plan = found(model, {"pixel_values": torch.zeros(5, 3, 32, 32)}).plan
    assert (plan.per_device_train_batch_size, plan.image_size) == (5, 32)
    assert (plan.seq_len, plan.images_per_sample) == (None, 1)


def test_the_decoder_s_tokens_are_those_of_the_labels(found):
    config = transformers.T5Config(
        vocab_size=101,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=1,
        num_heads=4,
        decoder_start_token_id=0,
    )
    batch = {**tokens(2, 30), "labels": torch.zeros(2, 11, dtype=torch.long)}
    plan = found(transformers.T5ForConditionalGeneration(config), batch).plan
    assert (plan.seq_len, plan.target_seq_len) == (30, 11)


def test_arguments_that_move_memory_and_are_not_read_are_listed(found):
    lines = found(llama(), neftune_noise_alpha=5.0, label_smoothing_factor=0.1).not_read
    assert [line.partition(":")[0] for line in lines] == [
        "neftune_noise_alpha",
        "label_smoothing_factor",
    ]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda p: torch.optim.AdamW(p), "adamw"),
        (lambda p: torch.optim.AdamW(p, foreach=False), "adamw_forloop"),
        (lambda p: torch.optim.AdamW(p, fused=True), "adamw_fused"),
        (lambda p: torch.optim.Adam(p), "adam"),
        (lambda p: torch.optim.SGD(p), "sgd"),
        (lambda p: torch.optim.SGD(p, momentum=0.9), "sgd_momentum"),
        (lambda p: torch.optim.Adagrad(p), "adagrad"),
        (lambda p: torch.optim.RMSprop(p), "rmsprop"),
        (lambda p: torch.optim.Adafactor(p), "torch_adafactor"),
        (lambda p: transformers.Adafactor(p), "adafactor"),
        (lambda p: torch.optim.AdamW(p, amsgrad=True), None),
        (lambda p: torch.optim.LBFGS(p), None),
    ],
)
def test_an_optimizer_that_was_made_has_a_name(make, name):
    assert optimizer_name(make([nn.Parameter(torch.zeros(4, 4))])) == name


@pytest.mark.parametrize(
    ("cls", "options", "name"),
    [
        ("AdamW8bit", {}, "adamw_8bit"),
        ("PagedAdamW8bit", {}, "paged_adamw_8bit"),
        ("PagedAdamW32bit", {}, "paged_adamw_32bit"),
        ("Lion8bit", {}, "lion_8bit"),
        ("Lion", {}, "lion"),
        ("AdEMAMix8bit", {}, "ademamix_8bit"),
        ("RMSprop8bit", {}, "rmsprop_bnb_8bit"),
    ],
)
def test_optimizers_of_bitsandbytes_have_names(cls, options, name):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    make = getattr(bitsandbytes.optim, cls)
    assert optimizer_name(make([nn.Parameter(torch.zeros(4, 4))], **options)) == name


def test_arguments_by_place_get_their_names():
    ids = torch.zeros(2, 5, dtype=torch.long)
    assert named_arguments(llama(), (ids,), {"labels": ids}).keys() == {
        "input_ids",
        "labels",
    }
