"""Sweeps by executors: what is sent, what is kept, and who is refused."""

import json
import pickle
import socket
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from threading import Thread

import pytest
from record_files import plan_of, report_of

from memplan.comparing.engines import Rehearsals
from memplan.errors import ExecutorError, ProgramError, UnknownNameError
from memplan.report import MemoryReport
from memplan.running import executors
from memplan.running.executors import executor_of, given_up
from memplan.validation.elsewhere import answer
from memplan.validation.kept import installed, looked_up

PLANS = [plan_of(per_device_train_batch_size=size) for size in (1, 2, 3)]


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A worker's part of this process: its cache, and the plans it really rehearsed."""
    plans = []

    def rehearse(plan, apart):
        plans.append(plan)
        if plan.seq_len == 7:
            raise ProgramError("There is no compiler.", hint="Install one.")
        return report_of(plan, source="rehearsed")

    monkeypatch.setenv("MEMPLAN_CACHE", str(tmp_path / "worker"))
    replay = import_module("memplan.validation.replay")
    monkeypatch.setattr(replay, "rehearsed_apart", rehearse)
    return plans


class Answering(Executor):
    """Answers each task by the next of these: a result, or what it dies of."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.futures = []

    def submit(self, function, *arguments):
        future = Future()
        self.futures.append(future)
        if self.answers:
            said = self.answers.pop(0)
            if said == "cancel":
                future.cancel()
                future.set_running_or_notify_cancel()
            elif isinstance(said, BaseException):
                future.set_exception(said)
            else:
                future.set_result(function(*arguments))
        return future


def swept(folder, executor, plans=PLANS):
    return dict(Rehearsals(folder=folder / "asker", executor=executor).look(plans))


def kept_in(folder):
    return {file.name for file in folder.glob("**/*.json")}


# ---- what is asked and answered ----


def test_any_executor_rehearses_and_both_sides_keep(asked, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        found = swept(tmp_path, pool)
    assert found == {plan: report_of(plan, source="rehearsed") for plan in PLANS}
    assert kept_in(tmp_path / "asker") == kept_in(tmp_path / "worker")
    assert len(kept_in(tmp_path / "asker")) == 3


def test_what_is_kept_is_not_asked_again(asked, tmp_path):
    swept(tmp_path, Answering("ok", "ok"), PLANS[:2])
    executor = Answering("ok")
    assert set(swept(tmp_path, executor)) == set(PLANS)
    assert len(executor.futures) == 1
    assert asked == PLANS


def test_a_worker_has_a_cache_of_its_own(asked, tmp_path):
    swept(tmp_path / "one", Answering("ok"), PLANS[:1])
    swept(tmp_path / "other", Answering("ok"), PLANS[:1])
    assert len(asked) == 1


def test_why_there_is_no_report_comes_back_too(asked, tmp_path):
    plan = plan_of(seq_len=7)
    assert swept(tmp_path, Answering("ok"), [plan]) == {plan: "There is no compiler"}
    assert kept_in(tmp_path) == set()


def test_what_cannot_be_run_is_not_sent(asked, tmp_path):
    plan = plan_of(num_gpus=2, tensor_parallel=2)
    executor = Answering()
    [reason] = swept(tmp_path, executor, [plan]).values()
    assert reason.startswith("Tensor parallelism is not run")
    assert executor.futures == []


def test_plain_data_and_a_function_s_name_are_sent(asked):
    plan = plan_of(lora_targets=("c_attn",), trainable="lora")
    sent = pickle.dumps((answer, asdict(plan), installed(), looked_up(plan)))
    function, *arguments = pickle.loads(sent)
    assert b"TrainingPlan" not in sent
    said = function(*arguments)
    assert asked == [plan]
    assert json.loads(pickle.loads(pickle.dumps(said))["report"])["plan"]


# ---- who is refused ----


@pytest.mark.parametrize("name", ["torch", "memplan", "Python"])
def test_another_version_is_refused_by_a_sentence_that_names_both(asked, name):
    there = {**installed(), name: "0.0.1"}
    said = answer(asdict(PLANS[0]), there, looked_up(PLANS[0]))
    host, here = socket.gethostname(), installed()[name]
    assert said["refusal"] == (
        f"The worker on {host} has {name} {here}; here it is {name} 0.0.1."
    )
    assert asked == []


def test_what_a_worker_lacks_is_named(asked):
    said = answer(asdict(PLANS[0]), {**installed(), "apex": "1"}, looked_up(PLANS[0]))
    assert "has apex missing; here it is apex 1." in said["refusal"]


def test_a_model_s_file_has_to_be_the_same(asked, tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"model_type": "gpt2", "n_layer": 2}')
    plan = plan_of(model=str(file))
    here = looked_up(plan)
    file.write_text('{"model_type": "gpt2", "n_layer": 3}')
    assert "the model" in answer(asdict(plan), installed(), here)["refusal"]
    file.unlink()
    refusal = answer(asdict(plan), installed(), here)["refusal"]
    assert refusal.startswith("The worker on ")
    assert "There is no file" in refusal
    assert asked == []


def test_a_refusal_ends_the_sweep(asked, tmp_path):
    class Elsewhere(Answering):
        def submit(self, function, fields, libraries, names):
            there = {**libraries, "torch": "9.9"}
            return super().submit(function, fields, there, names)

    with pytest.raises(ExecutorError, match=r"here it is torch 9\.9") as raised:
        swept(tmp_path, Elsewhere("ok", "ok"))
    assert "Have the same on all machines" in raised.value.hint
    assert asked == []


# ---- executors that fail ----


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BrokenExecutor("A process died abruptly."), "BrokenExecutor: A process died"),
        (RuntimeError("no\nmore"), "RuntimeError: no."),
        (MemoryError(), "failed: MemoryError."),
        ("cancel", "went away before all was done"),
    ],
    ids=repr,
)
def test_an_executor_that_fails_is_one_sentence(asked, tmp_path, error, said):
    with pytest.raises(ExecutorError) as raised:
        swept(tmp_path, Answering("ok", error))
    assert said in raised.value.message
    assert "is kept" in raised.value.hint


def test_the_cause_is_named_where_an_executor_wraps_it(asked, tmp_path):
    error = RuntimeError("Error during deserialization.")
    error.__cause__ = ModuleNotFoundError("No module named 'memplan'")
    with pytest.raises(ExecutorError, match="No module named 'memplan'"):
        swept(tmp_path, Answering(error))


def test_an_executor_that_is_broken_takes_nothing(asked, tmp_path):
    class Broken(Executor):
        def submit(self, function, *arguments):
            raise BrokenExecutor("It is.")

    with pytest.raises(ExecutorError, match="BrokenExecutor: It is"):
        swept(tmp_path, Broken())


def test_what_is_not_wanted_any_more_is_cancelled(asked, tmp_path):
    executor = Answering("ok")
    looking = Rehearsals(folder=tmp_path / "asker", executor=executor).look(PLANS)
    [_, found] = next(looking)
    assert isinstance(found, MemoryReport)
    looking.close()
    assert [future.cancelled() for future in executor.futures] == [False, True, True]
    assert len(kept_in(tmp_path / "asker")) == 1


# ---- names of executors ----


def test_local_is_threads_of_this_process():
    with executor_of("local") as executor:
        assert executor is None
    assert given_up() is None


@pytest.mark.parametrize(
    "name", ["", "dask", "dask://", "dask://host", "ray://host:1", "dask://host:x"]
)
def test_a_name_that_is_none_is_one_sentence(name):
    with pytest.raises(UnknownNameError, match="no executor named"), executor_of(name):
        pass


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("dask://10.0.0.1:8786", "tcp://10.0.0.1:8786"),
        ("dask+tls://head.local:1", "tls://head.local:1"),
        ("dask://[::1]:8786", "tcp://[::1]:8786"),
    ],
)
def test_an_address_is_written_as_dask_writes_it(name, address):
    assert executors._address(name) == address


def test_dask_is_an_extra(monkeypatch):
    monkeypatch.setattr(executors, "find_spec", lambda name: None)
    with pytest.raises(ExecutorError) as raised, executor_of("dask://host:1"):
        pass
    assert "distributed, which is not installed" in raised.value.message
    assert "memplan[dask]" in raised.value.hint


@contextmanager
def something_else(words):
    """A server that is no scheduler: its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:  # the test is over
                    return
                held.append(connection)
                if words is not None:
                    connection.sendall(words)
                    connection.close()

        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in held:
            connection.close()


@pytest.mark.parametrize(
    "words",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 64, b"", None],
    ids=["web server", "zeros", "hangs up", "silent"],
)
def test_what_is_no_scheduler_is_one_sentence(words, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(executors, "PATIENCE_S", 0.5)
    with something_else(words) as port:
        name = f"dask://127.0.0.1:{port}"
        with pytest.raises(ExecutorError) as raised, executor_of(name):
            pass
    assert raised.value.message == f"No scheduler of Dask answers at {name}."
    assert raised.value.exit_code == 2
