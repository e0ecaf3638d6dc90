"""How Flamingo and OpenFlamingo train: what decays, what moves, what is added up."""

from dataclasses import replace
from random import Random

import pytest

torch = pytest.importorskip("torch", reason="models need torch")
pytest.importorskip("accelerate", reason="training runs through it")
pytest.importorskip("transformers", reason="their towers are transformers'")

import small_flamingo  # noqa: E402

from memplan.data.loading import Loading  # noqa: E402
from memplan.models.flamingo.data import MMC4, PAIRS  # noqa: E402
from memplan.models.flamingo.miniature import write_sample  # noqa: E402
from memplan.recipes.flamingo import MIXTURES, mixture, recipe  # noqa: E402
from memplan.runner.training.fitting import Fitting, make_accelerator  # noqa: E402

NAMES = ["openflamingo-tiny", "flamingo-tiny"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_sample(folder, 8)
    return folder


def fitting(folder, name, look=None, **options):
    """A run over pages and pairs; `look` is called in the place of what masks rows."""
    model = small_flamingo.small_model(name)
    module, writer = small_flamingo.build(model)
    datasets = {
        pages: small_flamingo.pages(folder / file, model, writer)
        for pages, file in zip(
            ("m3w", "align") if model.config.is_paper else ("mmc4", "laion"),
            (MMC4, PAIRS),
            strict=True,
        )
    }
    loading = {key: Loading(batch_size=2, shuffles=False) for key in datasets}
    sources = mixture(model.config, datasets, loading)
    made = recipe(module, model, **({"num_warmup_steps": 0} | options))
    if look is not None:
        made = replace(made, adjust_gradients=look)
    return module, Fitting(make_accelerator(2, cpu=True), module, made, sources)


def gradients_of(module):
    return [(n, p.grad) for n, p in module.named_parameters() if p.grad is not None]


def decay_of(module, optimizer, name):
    parameter = dict(module.named_parameters())[name]
    for group in optimizer.param_groups:
        if any(parameter is other for other in group["params"]):
            return group["weight_decay"]
    return None


# Groups


def test_the_paper_decays_all_but_the_resampler():
    model = small_flamingo.small_model("flamingo-tiny")
    module, _ = small_flamingo.build(model)
    optimizer = recipe(module, model).optimizer
    block = "lang_encoder.layers.0.gated_cross_attn_layer"
    for name, expected in {
        "perceiver.latents": 0.0,
        "perceiver.layers.0.0.to_q.weight": 0.0,
        f"{block}.attn.to_q.weight": 0.1,
        f"{block}.attn_gate": 0.1,
        "lang_encoder.eoc_embedding": 0.1,
        "lang_encoder.embed.weight": None,
        "lang_encoder.layers.0.decoder_layer.up.weight": None,
    }.items():
        assert decay_of(module, optimizer, name) == expected, name


def test_openflamingo_decays_the_matrices_of_its_blocks():
    model = small_flamingo.small_model("openflamingo-tiny")
    module, _ = small_flamingo.build(model)
    optimizer = recipe(module, model).optimizer
    block = "lang_encoder.transformer.blocks.1.gated_cross_attn_layer"
    for name, expected in {
        "perceiver.layers.0.0.to_q.weight": 0.0,
        f"{block}.attn.to_q.weight": 0.1,
        f"{block}.ff.1.weight": 0.1,
        f"{block}.attn.norm.weight": 0.0,
        f"{block}.attn_gate": 0.0,
        "lang_encoder.transformer.wte.weight": 0.0,
        "vision_encoder.proj": None,
    }.items():
        assert decay_of(module, optimizer, name) == expected, name


def test_what_trains_is_the_presets_default():
    model = small_flamingo.small_model("openflamingo-tiny")
    module, _ = small_flamingo.build(model)
    optimizer = recipe(module, model, trainable="without_embeddings").optimizer
    table = "lang_encoder.transformer.wte.weight"
    assert decay_of(module, optimizer, table) is None


@pytest.mark.parametrize(("name", "steps"), [(NAMES[0], 1875), (NAMES[1], 5000)])
def test_the_learning_rate_rises_and_stays(name, steps):
    model = small_flamingo.small_model(name)
    module, _ = small_flamingo.build(model)
    made = recipe(module, model)
    (at,) = {schedule(steps // 5) for schedule in made.schedule.lr_lambdas}
    assert at == pytest.approx(0.2, abs=1e-3)
    assert {schedule(10**6) for schedule in made.schedule.lr_lambdas} == {1.0}
    assert made.schedule.base_lrs == [1e-4, 1e-4]
    assert made.max_grad_norm == 1.0


# The mixture


def test_the_published_weights():
    paper, other = MIXTURES["flamingo"], MIXTURES["openflamingo"]
    assert [share.weight for share in paper.values()] == [1.0, 0.2, 0.2, 0.03]
    assert {name: share.weight for name, share in other.items()} == {
        "laion": 0.2,
        "mmc4": 1.0,
    }


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_all_datasets_are_weighted_and_added_before_one_update(
    folder, name
):
    found = {}

    def look():
        found.update({n: g.clone() for n, g in gradients_of(module)})

    module, run = fitting(folder, name, look)
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    expected = {}
    for source in run.sources:
        samples = [source.samples.draw(i, Random(f"0 draw {i}")) for i in range(2)]
        module.zero_grad()
        (source.weight * module(**source.collate(samples)).loss).backward()
        for n, gradient in gradients_of(module):
            expected[n] = expected.get(n, 0) + gradient
    module.zero_grad()
    losses = run.step()
    assert list(losses) == [source.name for source in run.sources]
    assert found.keys() == expected.keys()
    for n, gradient in expected.items():
        assert torch.allclose(found[n], gradient, atol=1e-5), n
    moved = {n for n, p in module.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert all(dict(module.named_parameters())[n].requires_grad for n in moved)


# The new rows of the table


def test_only_the_new_rows_move_though_the_whole_table_has_states(folder):
    module, run = fitting(folder, "openflamingo-tiny", learning_rate=1e-2)
    table = module.get_input_embeddings().weight
    before = table.detach().clone()
    run.fit(2)
    moved = (table != before).any(dim=1).nonzero().flatten().tolist()
    assert moved == sorted([module.eoc_token_id, module.media_token_id])
    (state,) = (s for p, s in run.recipe.optimizer.state.items() if p is table)
    assert state["exp_avg"].shape == table.shape


def test_the_papers_table_stays_and_its_row_for_the_end_moves(folder):
    module, run = fitting(folder, "flamingo-tiny", learning_rate=1e-2)
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    run.fit(2)
    moved = {n for n, p in module.named_parameters() if not torch.equal(p, before[n])}
    assert "lang_encoder.eoc_embedding" in moved
    assert "lang_encoder.embed.weight" not in moved
    assert not any("decoder_layer" in n or "vision_encoder" in n for n in moved)


# Going on


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_has_the_losses_of_an_unbroken_one(folder, name, tmp_path):
    _, unbroken = fitting(folder, name)
    losses = unbroken.fit(4)
    _, first = fitting(folder, name)
    first.fit(2)
    first.save(tmp_path)
    _, second = fitting(folder, name)
    assert second.resume(tmp_path) == 2
    assert second.fit(2) == losses[2:]
