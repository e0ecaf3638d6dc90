"""Flamingo and OpenFlamingo: published counts, and what is held where.

Facts: Flamingo, arXiv 2204.14198 (tables 1, 7, 13); OpenFlamingo, arXiv 2308.01390, and
open_flamingo/src.
"""

import copy
import json

import pytest

from memplan import TrainingPlan, estimate
from memplan.errors import ModelConfigError, PlanError
from memplan.formulas.parameters import Stored
from memplan.formulas.setting import Batch, LowRank, Setting
from memplan.formulas.tape import Tape
from memplan.models import find_model
from memplan.models.catalogue import read_preset
from memplan.models.flamingo.config import NfnetConfig
from memplan.models.flamingo.cross_attention import GatedBlock
from memplan.models.flamingo.language import token_rows
from memplan.models.flamingo.nfnet import nfnet

PERCEIVER = 63_019_008
CLIP_VIT_L_14 = 303_966_208
"""open_clip's visual tower: transformers' 303,179,776 and a projection 1024 x 768."""
NFNET_F6 = 435_286_116
"""timm's dm_nfnet_f6 without its classifier; the paper says 435M."""


def size_of(name, **options):
    return estimate(TrainingPlan(model=name, torch="2.14", **options)).model


def trainable(name, which="default"):
    return size_of(name, trainable=which).trainable_parameters


@pytest.fixture
def variation(tmp_path):
    """A preset's configuration with other values, as a file."""

    def make(name, **changes):
        config = copy.deepcopy(read_preset(name)["config"])
        for key, value in changes.items():
            if isinstance(value, dict) and key in config:
                config[key].update(value)
            elif value is None:
                del config[key]
            else:
                config[key] = value
        file = tmp_path / "config.json"
        file.write_text(json.dumps(config))
        return str(file)

    return make


# OpenFlamingo's parameters, to the last digit


def block(D, width=1024, inner=512):
    """Queries, keys and values, output, MLP, two norms, two gates."""
    attention = D * inner + width * 2 * inner + inner * D
    return attention + 8 * D * D + 4 * D + 2


@pytest.mark.parametrize(
    ("name", "D", "num_blocks", "published"),
    [
        ("openflamingo-3b", 2048, 24, 36_708_354),
        ("openflamingo-4b", 2560, 16, 56_109_058),
        ("openflamingo-9b", 4096, 8, 139_476_994),
    ],
)
def test_a_gated_block_of_openflamingo(name, D, num_blocks, published):
    assert block(D) == published
    assert trainable(name, "cross_attention") == num_blocks * published


@pytest.mark.parametrize("size", ["3b", "4b", "9b"])
def test_openflamingos_resampler_is_the_same_in_all_sizes(size):
    D, inner = 1024, 512
    attention = 2 * 2 * D + D * inner + D * 2 * inner + inner * D
    layer = attention + 2 * D + 8 * D * D
    assert 64 * D + 6 * layer + 2 * D == PERCEIVER
    assert trainable(f"openflamingo-{size}", "resampler") == PERCEIVER


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("openflamingo-3b", 1_046_992_944),
        ("openflamingo-4b", 960_763_936),
        ("openflamingo-9b", 1_384_781_840),
    ],
)
def test_what_openflamingo_trains(name, published):
    assert trainable(name) == published


@pytest.mark.parametrize(
    ("name", "D", "num_blocks"),
    [("openflamingo-3b", 2048, 24), ("openflamingo-9b", 4096, 8)],
)
def test_mpt_versions_train_their_whole_embedding(name, D, num_blocks):
    assert trainable(name) == PERCEIVER + num_blocks * block(D) + 50_280 * D


def mpt(D, layers):
    """12 D^2 and two norms without bias a layer, a last norm, a tied table."""
    return layers * (12 * D * D + 2 * D) + D + 50_280 * D


def test_openflamingo_9b_has_8_131_465_232_parameters():
    parts = mpt(4096, 32) + CLIP_VIT_L_14 + PERCEIVER + 8 * block(4096)
    assert size_of("openflamingo-9b").parameters == parts == 8_131_465_232


def test_openflamingo_3b_has_2_559_billion_parameters():
    parts = mpt(2048, 24) + CLIP_VIT_L_14 + PERCEIVER + 24 * block(2048)
    assert size_of("openflamingo-3b").parameters == parts
    assert round(parts / 1e9, 3) == 2.559


def test_openflamingo_4b_has_4_041_billion_parameters():
    D = 2560
    layer = 12 * D * D + 13 * D
    neox = 32 * layer + 2 * D + 2 * 50_432 * D
    parts = neox + CLIP_VIT_L_14 + PERCEIVER + 16 * block(D)
    assert size_of("openflamingo-4b").parameters == parts
    assert round(parts / 1e9, 3) == 4.041


# The paper's, as it rounds them


def in_parts(name):
    """Billions: language model, cross-attention, total."""
    total = size_of(name).parameters
    cross_attention = trainable(name, "cross_attention")
    resampler = trainable(name, "resampler")
    language_model = total - cross_attention - resampler - NFNET_F6
    return [x / 1e9 for x in (language_model, cross_attention, total)]


@pytest.mark.parametrize(
    ("name", "D", "layers", "blocks", "published"),
    [
        ("flamingo-3b", 2048, 24, 24, (1.374, 1.208, 3.21)),
        ("flamingo-9b", 4096, 32, 8, (7.110, 1.611, 9.35)),
        ("flamingo-80b", 8192, 80, 12, (70.06, 9.664, 80.35)),
    ],
)
def test_the_papers_counts_are_12_and_13_squares_of_the_width(
    name, D, layers, blocks, published
):
    language_model, cross_attention, total = in_parts(name)
    assert 13 * D * D * layers + 32_000 * D == pytest.approx(
        published[0] * 1e9, rel=5e-4
    )
    # Norms and gates are beside the squares, a ten-thousandth of them.
    assert language_model == pytest.approx(published[0], rel=5e-4)
    assert cross_attention == pytest.approx(12 * D * D * blocks / 1e9, rel=5e-4)
    assert cross_attention == pytest.approx(published[1], rel=5e-4)
    assert round(total, 2) == published[2]


@pytest.mark.parametrize(
    ("name", "learned"),
    [("flamingo-3b", 1.4), ("flamingo-9b", 1.8)],
)
def test_the_papers_additional_learned_parameters(name, learned):
    assert round(trainable(name) / 1e9, 1) == learned


def test_flamingo_80b_learns_10_billion():
    assert round(trainable("flamingo-80b") / 1e9) == 10


@pytest.mark.parametrize("size", ["3b", "9b", "80b"])
def test_the_papers_resampler_is_194_million_in_all_sizes(size):
    D, inner = 1536, 16 * 128
    squares = 6 * (4 * D * inner + 8 * D * D) + 3072 * D
    norms, latents, times = 6 * 3 * 2 * D + 2 * D, 64 * D, 8 * D
    found = trainable(f"flamingo-{size}", "resampler")
    assert found == squares + norms + latents + times
    assert round(found / 1e6) == 194


def test_the_vision_tower_of_the_paper_is_435_million():
    assert round(NFNET_F6 / 1e6) == 435


@pytest.mark.parametrize(
    ("every", "num_blocks", "published"),
    [(1, 24, 3.2), (2, 12, 2.6), (4, 6, 2.3), (24, 1, 2.0)],
)
def test_the_papers_ablation_of_how_often_a_block_stands(
    variation, every, num_blocks, published
):
    model = variation("flamingo-3b", cross_attn_every_n_layers=every)
    total = size_of(model, trainable="gated").parameters
    counted = 1.374e9 + 0.435e9 + 0.194e9 + num_blocks * 12 * 2048**2
    assert total == pytest.approx(counted, rel=5e-4)
    assert int(total / 1e8) / 10 == published


def test_vanilla_cross_attention_has_no_mlp(variation):
    model = variation("flamingo-3b", has_cross_attention_mlp=False)
    assert round(size_of(model, trainable="gated").parameters / 1e9, 2) == 2.41


def test_a_clip_tower_in_place_of_the_nfnet_makes_3_1_billion(variation):
    clip = read_preset("openflamingo-3b")["config"]["vision_config"]
    model = variation("flamingo-3b", nfnet_config=None, vision_config=clip)
    assert round(size_of(model, trainable="gated").parameters / 1e9, 1) == 3.1


def test_forty_layers_and_ten_blocks_would_contradict_table_1(variation):
    model = variation("flamingo-9b", text_config={"num_hidden_layers": 40})
    assert round(size_of(model, trainable="gated").parameters / 1e9, 1) == 11.5


def test_the_reading_of_9b_is_called_an_inference():
    assert any("inference" in note for note in find_model("flamingo-9b").notes)


@pytest.mark.parametrize("name", ["flamingo-tiny", "openflamingo-tiny"])
def test_the_miniatures_have_a_few_million(name):
    assert 1e6 < size_of(name).parameters < 1e7


# Where blocks stand


@pytest.mark.parametrize(
    ("name", "num_blocks"),
    [
        ("flamingo-3b", 24),
        ("flamingo-9b", 8),
        ("flamingo-80b", 12),
        ("openflamingo-3b", 24),
        ("openflamingo-4b", 16),
        ("openflamingo-9b", 8),
    ],
)
def test_a_block_stands_before_every_nth_layer(name, num_blocks):
    assert find_model(name).config.num_blocks == num_blocks


def test_the_paper_begins_at_the_first_layer_and_openflamingo_at_the_nth(variation):
    paper = variation("flamingo-tiny", text_config={"num_hidden_layers": 6})
    paper = size_of(paper, trainable="cross_attention|gated").trainable_parameters
    whole = size_of("flamingo-tiny", trainable="gated").trainable_parameters
    # Every second of 4 and of 6 layers: 2 and 3 blocks.
    assert paper * 2 == whole * 3
    # Every fourth of 6: before layers 0 and 4 in the paper, before 3 in OpenFlamingo.
    six = {"text_config": {"num_hidden_layers": 6}, "cross_attn_every_n_layers": 4}
    paper = find_model(variation("flamingo-tiny", **six)).config.num_blocks
    other = find_model(variation("openflamingo-tiny", **six)).config.num_blocks
    assert (paper, other) == (2, 1)


# What is held


def trained(name):
    return not name.startswith(("vision_encoder", "lang_encoder")) or "gated" in name


def tape(autocast=None, embeddings=False):
    """A tape that trains what OpenFlamingo trains, its embeddings if asked."""

    def policy(name, shape, is_linear):
        trains = trained(name) or (embeddings and ".wte." in name)
        return Stored("fp32", trains, 0)

    return Tape(policy=policy, setting=Setting(autocast=autocast))


def held(t, images=2, name="openflamingo-tiny"):
    """Bytes saved for backward when the forward pass has ended."""
    model = find_model(name)
    batch = Batch(
        size=2,
        seq_len=32,
        images_per_sample=images,
        image_size=model.config.image_size,
    )
    loss = model.family.forward(t, model.config, batch)
    t.exit_autocast()
    del loss
    return t.live.saved_bytes


def test_a_gated_block_saves_every_step_of_its_attention_in_fp32():
    t = tape()
    config = find_model("openflamingo-tiny").config
    B, L, D, S, W, H, inner = 2, 32, 256, 128, 128, 8, 512
    x = t.apply("stem", (t.weight("stem", (D,)),), (B, L, D), "fp32")
    media = t.apply("media", (t.weight("media", (W,)),), (B, S, W), "fp32")
    y = GatedBlock(config, media)(t, x)
    tokens, visual, heads = B * L, B * S, B * H * L * S
    attention = (
        4 * (2 * tokens * D)  # x for the norm, what it makes for the queries
        + 4 * visual * W  # the media, for keys and values
        + 4 * (tokens * inner + 2 * visual * inner)  # query, key, value by heads
        + tokens * S  # the mask, inverted
        + tokens  # rows without a picture
        + 4 * 2 * heads  # softmax, and what is left of it
        + 4 * tokens * inner  # rows for the output projection
    )
    mlp = 4 * tokens * (2 * D + 4 * D + 4 * D)  # norm twice, GELU twice
    gates = 2 * (4 * tokens * D + 4)
    statistics = 2 * 2 * 4 * tokens
    del x, media
    assert t.live.saved_bytes == attention + mlp + gates + statistics
    assert y.shape == (B, L, D)


def test_each_picture_adds_the_same():
    one, two, three = (held(tape(), images) for images in (1, 2, 3))
    assert three - two == two - one > 0


def test_frozen_layers_below_the_first_block_keep_nothing_unless_embeddings_train():
    B, L, D, H = 2, 32, 256, 4
    frozen, trains = held(tape()), held(tape(embeddings=True))
    # One MPT layer: two norm inputs with statistics, query, key and value, softmax
    # and the input of GELU. The mask is shared with the layers above.
    layer = 4 * B * L * (2 * D + 3 * D + 4 * D) + 2 * 8 * B * L + 4 * B * H * L * L
    # A table that is trained is trained as the head, too, which saves its input.
    assert trains - frozen == layer + 4 * B * L * D


def test_frozen_fp32_weights_are_cast_at_each_use_and_the_casts_are_kept():
    t = tape(autocast="bf16")
    held(t)
    D, V, W = 256, 8192, 128
    # Layer 0 of four is below the first block and no gradient passes through it.
    frozen = 3 * 12 * D * D + V * D
    blocks = 2 * (D * 512 + W * 1024 + 512 * D + 8 * D * D)
    resampler = 2 * (W * 512 + W * 1024 + 512 * W + 8 * W * W)
    casts = 2 * (frozen + blocks + resampler)
    assert t.live.temporary_bytes == casts


def test_a_frozen_tower_leaves_its_patches_alone():
    t = tape()
    held(t)
    saved = [node for node in t.nodes if "vision_encoder" in node.place]
    assert saved == []


def test_checkpointing_keeps_the_inputs_of_blocks_layers_and_resampler():
    plan = {"model": "openflamingo-9b", "torch": "2.14", "gpu": "a100-80gb"}
    plan["per_device_train_batch_size"] = 16
    whole = estimate(TrainingPlan(**plan))
    checkpointed = estimate(TrainingPlan(**plan, activation_checkpointing="full"))
    assert checkpointed.peak.allocated_bytes < 0.7 * whole.peak.allocated_bytes


def test_frozen_parts_of_the_paper_are_stored_in_two_bytes():
    report = estimate(TrainingPlan(model="flamingo-3b", torch="2.14"))
    frozen = report.model.parameters - report.model.trainable_parameters
    weights = 2 * frozen + 4 * report.model.trainable_parameters
    assert report.components.weights == pytest.approx(weights, rel=1e-4)


# The NFNet under no_grad


@pytest.mark.parametrize(("variant", "parameters"), [("F0", 68_416_284)])
def test_nfnets_have_the_parameters_of_timms(variant, parameters):
    t = tape(autocast="bf16")
    with t.no_grad():
        nfnet(t, NfnetConfig(variant=variant), t.input((1, 3, 320, 320), "fp32"))
    counted = sum(p.num_elements * p.count for p in t.parameters.values())
    assert counted == parameters


def test_an_nfnet_is_highest_where_stage_1_halves_its_maps():
    t = Tape(
        policy=lambda name, shape, is_linear: Stored("bf16", False, 0),
        setting=Setting(autocast="bf16"),
    )
    B = 4
    with t.no_grad():
        y = nfnet(t, NfnetConfig(variant="F6"), t.input((B, 3, 320, 320), "fp32"))
    assert y.shape == (B, 3072, 10, 10)
    assert t.live.temporary_bytes == y.num_bytes
    stem, entry, shortcut = 128 * 80**2, 256 * 80**2, 512 * 40**2
    first, activated, padded, output = entry, entry, 256 * 81**2, 256 * 40**2
    kernel = 256 * 128 * 3 * 3
    maps = stem + entry + shortcut + first + activated + padded + output
    workspace = padded + output
    held = 2 * (B * (maps + workspace) + 2 * kernel)
    # The virtual device's PyTorch and cuDNN asked for 32 bytes more.
    assert t.peak.at.temporary_bytes == held == 87_035_936 - 32


# What is refused


def test_the_vision_encoder_cannot_be_trained():
    with pytest.raises(PlanError, match="cannot be trained"):
        estimate(TrainingPlan(model="openflamingo-tiny", trainable="all"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nfnet_config": {"variant": "F6"}}, "one vision tower"),
        ({"vision_config": None}, "one vision tower"),
        ({"cross_attn_every_n_layers": 5}, "cannot be placed"),
        ({"text_config": {"num_attention_heads": 5}}, "no multiple of 5 heads"),
        ({"resampler": {"hidden_size": 64}}, "as wide as its tower"),
        ({"text_config": {"model_type": "gpt-6"}}, "model_type"),
        (
            {"vision_config": None, "nfnet_config": {"variant": "F6"}},
            "tower is a CLIP",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(variation, changes, message):
    with pytest.raises(ModelConfigError, match=message):
        estimate(TrainingPlan(model=variation("openflamingo-tiny", **changes)))


@pytest.mark.parametrize(
    ("low_rank", "quantization", "wants"),
    [(None, "none", False), (8, "none", True), (8, "nf4", False)],
)
def test_adapters_make_the_rows_of_tokens_want_a_gradient(
    low_rank, quantization, wants
):
    """Checkpointed or not: Flamingo does not tell PEFT which."""
    adapters = None if low_rank is None else LowRank(rank=low_rank, targets=("query",))
    t = Tape(
        policy=lambda name, shape, is_linear: Stored("bf16", False, 0),
        setting=Setting(low_rank=adapters, quantization=quantization),
    )
    rows = token_rows(t, t.weight("table", (64, 16)), (2, 8))
    assert (rows.edge is not None) == wants
