"""NCCL's watchdog is waited for around optimizer steps, and nothing else is."""

from importlib import import_module

import pytest

torch = pytest.importorskip("torch")

from memplan.runner import collectives  # noqa: E402


class NCCL:
    """A backend that counts how often it was waited for."""

    def __init__(self):
        self.waited = 0

    def _wait_for_pending_works(self):
        self.waited += 1


@pytest.fixture
def groups(monkeypatch):
    """Process groups of an initialized run: two of NCCL, one of another backend."""
    dist = torch.distributed
    backends = [NCCL(), NCCL(), object()]
    listed = [Group(backend) for backend in backends]
    monkeypatch.setattr(dist, "ProcessGroupNCCL", NCCL, raising=False)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist.distributed_c10d, "_pg_map", dict.fromkeys(listed))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return backends


class Group:
    """A process group of one backend."""

    _device_types = ("cuda",)

    def __init__(self, backend):
        self.backend = backend

    def _get_backend(self, device_type):
        return self.backend


@pytest.fixture
def optimizer():
    """An optimizer to step, after which the hooks of this test are gone."""
    hooks = import_module("torch.optim.optimizer")
    tables = (hooks._global_optimizer_pre_hooks, hooks._global_optimizer_post_hooks)
    before = [dict(table) for table in tables]
    collectives.install()
    yield torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        table.update(kept)


def test_each_nccl_group_is_waited_for_before_and_after_a_step(groups, optimizer):
    optimizer.step()
    assert [backend.waited for backend in groups[:2]] == [2, 2]


def test_nothing_is_waited_for_while_a_graph_is_captured(
    groups, optimizer, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    optimizer.step()
    assert groups[0].waited == 0


def test_nothing_is_waited_for_without_a_process_group(groups, optimizer, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    optimizer.step()
    assert groups[0].waited == 0
