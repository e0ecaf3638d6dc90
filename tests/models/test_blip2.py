"""BLIP-2 and InstructBLIP: published parts, frozen towers, pictures in the prompt."""

import json

import pytest
from pydantic import TypeAdapter

from memplan import TrainingPlan, estimate
from memplan.errors import ModelConfigError, PlanError
from memplan.formulas.setting import Batch, Setting
from memplan.formulas.tape import Tape
from memplan.formulas.weights import Storing
from memplan.models.blip2.config import Blip2Config
from memplan.models.blip2.formula import forward

XL = {
    "model_type": "t5",
    "d_model": 2048,
    "d_ff": 5120,
    "num_layers": 24,
    "num_heads": 32,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
XXL = {**XL, "d_model": 4096, "d_ff": 10240, "num_heads": 64}
TINY = {
    "vision_config": {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 56,
    },
    "qformer_config": {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    },
    "text_config": {"model_type": "t5", "d_model": 64, "num_heads": 2, "d_ff": 128},
}

# Parts, by the beginning of their names: InstructBLIP with FLAN-T5 XL, and XXL.
PARTS = [
    ("vision_model.", 985_952_256, 985_952_256),
    ("query_tokens", 24_576, 24_576),
    ("qformer.", 185_659_392, 185_659_392),
    ("language_projection.", 1_574_912, 3_149_824),
    ("language_model.", 2_849_757_184, 11_135_332_352),
    ("", 4_022_968_320, 12_310_118_400),
]


@pytest.fixture
def plan(tmp_path):
    def make(model_type="blip-2", config=None, **options):
        file = tmp_path / "config.json"
        file.write_text(
            json.dumps({"model_type": model_type, **TINY, **(config or {})})
        )
        return TrainingPlan(model=str(file), torch="2.14", **options)

    return make


@pytest.fixture
def whole(tmp_path):
    def make(model_type, text, **options):
        file = tmp_path / "config.json"
        file.write_text(json.dumps({"model_type": model_type, "text_config": text}))
        return TrainingPlan(model=str(file), torch="2.14", **options)

    return make


@pytest.mark.parametrize(("part", "xl", "xxl"), PARTS)
def test_instructblip_has_its_published_parts(whole, part, xl, xxl):
    for text, published in ((XL, xl), (XXL, xxl)):
        size = estimate(whole("instructblip", text, trainable=f"^{part}")).model
        assert size.trainable_parameters == published


@pytest.mark.parametrize(
    ("text", "published"), [(XL, 3_942_446_592), (XXL, 12_229_596_672)]
)
def test_blip2_has_its_published_parameters(whole, text, published):
    assert estimate(whole("blip-2", text)).model.parameters == published


def test_blip2_has_a_qformer_without_a_text_branch(whole):
    size = estimate(whole("blip-2", XL, trainable=r"^qformer\.")).model
    assert size.trainable_parameters == 105_137_664


def test_bridging_vision_and_language_trains_107_million_as_published(whole):
    bridge = r"^qformer\.,^query_tokens,^language_projection\."
    size = estimate(whole("blip-2", XL, trainable=bridge)).model
    assert size.trainable_parameters == 105_137_664 + 24_576 + 1_574_912
    assert round(size.trainable_parameters / 1e6) == 107


def test_a_prompt_too_short_for_its_pictures_is_refused(plan):
    with pytest.raises(PlanError, match="cannot hold 2 pictures of 32 tokens"):
        estimate(plan(images_per_sample=2, seq_len=63))


def test_a_frozen_vision_tower_saves_nothing():
    """The bridge alone is trained: what is saved grows by no patch of no layer."""
    shallow, deep = (
        saved_bytes(num_hidden_layers=n, trainable=("^qformer", "^query_tokens"))
        for n in (3, 30)
    )
    assert shallow == deep


def test_a_trained_projection_makes_the_frozen_language_model_save():
    projection = saved_bytes(trainable=("^language_projection",))
    assert projection > saved_bytes(trainable=(r"lm_head",))


def test_a_layer_of_the_vision_tower_saves_16_widths_of_a_patch():
    """fp32: inputs of norms and of products, query, key and value, output, and gelu.

    Beside them two roots and means of norms, and the log-sum-exp of each head.
    """
    D, F, H, patches = 64, 256, 4, 17
    more = saved_bytes(num_hidden_layers=4) - saved_bytes(num_hidden_layers=3)
    norms = 2 * (4 * D + 2 * 4)
    attention = 4 * D + 3 * 4 * D + 4 * D
    mlp = 4 * D + 2 * 4 * F
    log_sum_exp = 4 * H * 32  # of 17 queries rounded to 32
    assert more == 2 * (patches * (norms + attention + mlp) + log_sum_exp)


def saved_bytes(trainable=("",), num_hidden_layers=3):
    """What 2 samples with a picture each save in fp32."""
    config = config_of(
        {**TINY["vision_config"], "num_hidden_layers": num_hidden_layers}
    )
    policy = Storing(dtype="fp32", trainable=trainable, frozen_dtype="fp32")
    tape = Tape(policy=policy, setting=Setting())
    forward(tape, config, Batch(size=2, seq_len=64, target_seq_len=8, image_size=56))
    tape.end_phase("loss")
    return tape.phases[-1].end.saved_bytes


def config_of(vision):
    data = {**TINY, "vision_config": vision}
    return TypeAdapter(Blip2Config).validate_python(data)


def test_pictures_are_counted_per_sample(plan):
    """As many pictures in half as many samples: the towers hold the same."""
    options = {"seq_len": 64, "trainable": "^vision_model"}
    apart = plan(per_device_train_batch_size=4, **options)
    together = plan(per_device_train_batch_size=2, images_per_sample=2, **options)
    assert estimate(apart).model == estimate(together).model
    assert (
        estimate(together).peak.allocated_bytes < estimate(apart).peak.allocated_bytes
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"text_config": {"model_type": "opt"}}, "language model 'opt'"),
        ({"text_config": None}, "language model 'opt'"),
        ({"vision_config": {"num_attention_heads": 5}}, "vision_config is no multiple"),
        ({"vision_config": {"patch_size": 300}}, "has no patch of 300"),
        ({"qformer_config": {"hidden_act": "mish"}}, "'mish' of qformer_config"),
        ({"qformer_config": {"cross_attention_frequency": 5}}, "no multiple of"),
        ({"qformer_config": {"use_qformer_text_input": True}}, "is not covered"),
    ],
)
def test_what_is_not_covered_is_refused(plan, config, message):
    with pytest.raises(ModelConfigError, match=message):
        estimate(plan(config=config))
