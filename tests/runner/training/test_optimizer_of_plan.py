"""Every optimizer that a plan can name is a real class, with the states it says."""

from types import SimpleNamespace

import pytest

from memplan.formulas.optimizers import MOMENTS, find_optimizer, optimizer_names

torch = pytest.importorskip("torch", reason="optimizers need torch")

from memplan.runner.training.optimizer import MasterWeights, recipe_of  # noqa: E402


def parameter(*shape):
    made = torch.nn.Parameter(torch.ones(*shape))
    made.grad = torch.full(shape, 0.5)
    return made


def is_torch(name):
    return find_optimizer(name).implementation not in ("8bit", "32bit")


@pytest.mark.parametrize("name", [n for n in optimizer_names() if is_torch(n)])
def test_an_optimizer_of_torch_keeps_the_moments_that_are_counted(name):
    if "adafactor" in name:
        pytest.importorskip("transformers")
    if "fused" in name and not torch.cuda.is_available():
        pytest.skip("torch has no fused optimizer without a GPU")
    weight = parameter(8, 4)
    optimizer = recipe_of(name)([weight])
    optimizer.step()
    algorithm = find_optimizer(name).algorithm
    tensors = [v for v in optimizer.state[weight].values() if torch.is_tensor(v)]
    if algorithm in MOMENTS:
        whole = [t for t in tensors if t.shape == weight.shape]
        assert len(whole) == len(MOMENTS[algorithm])
    assert not torch.equal(weight, torch.ones(8, 4))


@pytest.mark.parametrize("name", [n for n in optimizer_names() if not is_torch(n)])
def test_an_optimizer_of_bitsandbytes_is_told_bits_and_paging(name):
    pytest.importorskip("bitsandbytes")
    optimizer, weight = find_optimizer(name), parameter(8, 4)
    made = recipe_of(name)([weight])
    assert str(made.args.optim_bits) == optimizer.implementation.removesuffix("bit")
    assert made.is_paged == optimizer.is_paged
    assert type(made).__name__.lower().startswith(optimizer.algorithm)


def test_master_weights_move_fp16_weights_by_steps_too_small_for_them():
    weight = torch.nn.Parameter(torch.ones(4, dtype=torch.float16))
    optimizer = MasterWeights(
        [weight], lambda masters: torch.optim.SGD(masters, lr=1.0)
    )
    for _ in range(4):
        weight.grad = torch.full((4,), 2.0**-12, dtype=torch.float16)
        optimizer.step()
        optimizer.zero_grad()
    assert optimizer.masters[0].dtype == torch.float32
    assert torch.equal(optimizer.masters[0], torch.full((4,), 1 - 2.0**-10))
    assert torch.equal(weight, torch.full((4,), 1 - 2.0**-10, dtype=torch.float16))
    assert weight.grad is None


def test_averages_follow_the_weights_in_fp32():
    from memplan.runner.training.ema import DECAY, Averages

    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    averages = Averages([weight])
    weight.data.fill_(2.0)
    averages.update([weight])
    assert averages.tensors[0].dtype == torch.float32
    assert torch.allclose(averages.tensors[0], torch.full((3,), 2 - DECAY))


def test_embeddings_are_left_in_fp32_for_8bit_optimizers_alone():
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.optim import GlobalOptimManager

    from memplan.runner.training.optimizer import keep_embeddings_in_32bit

    manager = GlobalOptimManager.get_instance()
    for name, is_kept in (("adamw", False), ("lion", False), ("adamw_8bit", True)):
        table = torch.nn.Embedding(4, 2)
        keep_embeddings_in_32bit(name, SimpleNamespace(modules=lambda t=table: [t]))
        assert (
            any(module is table for module, *_ in manager.module_weight_config_triple)
            is is_kept
        )
