"""Real schedulers and workers of Dask: killed, stopped, and of other versions."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import pytest

from memplan.comparing.engines import Rehearsals
from memplan.comparing.files import from_json
from memplan.plan import TrainingPlan

pytest.importorskip("distributed")
pytestmark = pytest.mark.slow

TRICKS = "accumulation,checkpointing-full,adamw-fused"
PATIENCE_S = 120


class Cluster:
    """A scheduler, and workers that have a cache each."""

    def __init__(self, folder, **variables):
        self.folder = folder
        self.variables = {**os.environ, **variables}
        self.processes = {}
        self.sweeps = []

    def start(self, name, *words, **variables):
        with (self.folder / f"{name}.log").open("w") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "dask", *words],
                env={**self.variables, **variables},
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_scheduler(self, *words):
        file = self.folder / "scheduler.json"
        where = ("--host", "127.0.0.1", "--port", "0", "--dashboard-address", ":0")
        self.start(
            "scheduler", "scheduler", *where, *words, "--scheduler-file", str(file)
        )
        wait_until(lambda: file.is_file() and file.read_text().endswith("}"))
        self.address = json.loads(file.read_text())["address"]

    def start_worker(self, name, **variables):
        cache = self.folder / name
        how = ("--nthreads", "1", "--memory-limit", "0", "--no-dashboard")
        self.start(
            name,
            *("worker", self.address, *how, "--local-directory", str(self.folder)),
            MEMPLAN_CACHE=str(cache),
            **variables,
        )
        log = self.folder / f"{name}.log"
        wait_until(lambda: "Registered to" in log.read_text())

    def kill(self, name):
        """With the nanny that would start it again."""
        os.killpg(self.processes[name].pid, signal.SIGKILL)
        self.processes.pop(name).wait()

    def end(self):
        for name in [*self.processes]:
            self.kill(name)
        for sweep in self.sweeps:
            sweep.kill()
            sweep.communicate()

    def rehearsals(self, name):
        """Processes that a worker rehearses with."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                environ = (entry / "environ").read_bytes()
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:  # no process, or one that has ended
                continue
            mine = f"MEMPLAN_CACHE={self.folder / name}".encode() in environ
            if mine and b"rehearse" in words:
                found.append(int(entry.name))
        return found

    def command(self, model, *words):
        return [
            *(sys.executable, "-m", "memplan", "compare", str(model), "--json"),
            *("--batch-size", "4", "--tricks", TRICKS, "--by", "rehearse", *words),
        ]

    def elsewhere(self, model):
        at = self.address.replace("tcp:", "dask:").replace("tls:", "dask+tls:")
        return self.command(model, "--executor", at)

    def started(self, words):
        sweep = subprocess.Popen(
            words,
            env={**self.variables, "MEMPLAN_CACHE": str(self.folder / "asker")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.sweeps.append(sweep)
        return sweep

    def until(self, sweep, is_so):
        """Wait for what happens while a sweep is on its way."""
        wait_until(lambda: is_so() or sweep.poll() is not None)
        assert sweep.poll() is None, sweep.communicate()

    def run(self, words):
        process = self.started(words)
        printed, said = process.communicate(timeout=PATIENCE_S)
        return process.returncode, printed, said

    def kept(self):
        return {file.name for file in self.folder.glob("asker/rehearsals/*.json")}


@contextmanager
def cluster_of(folder, *words, **variables):
    cluster = Cluster(folder, **variables)
    try:
        cluster.start_scheduler(*words)
        yield cluster
    finally:
        cluster.end()


@pytest.fixture
def model(tmp_path, card_variables):
    """GPT-2 with two small layers; tests are skipped where no card can be played."""
    file = tmp_path / "config.json"
    sizes = {"n_layer": 2, "n_embd": 64, "n_head": 2, "vocab_size": 503}
    file.write_text(json.dumps({"model_type": "gpt2", "n_positions": 64, **sizes}))
    return file


def wait_until(is_so):
    ends = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.1)


def before_others(folder):
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def error_in(said):
    [line] = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in said
    return line


def test_a_sweep_that_is_stopped_and_loses_a_worker_loses_nothing(model, tmp_path):
    with cluster_of(tmp_path) as cluster:
        cluster.start_worker("first")
        sweep = cluster.started(cluster.elsewhere(model))
        cluster.until(sweep, lambda: cluster.kept() and cluster.rehearsals("first"))
        sweep.send_signal(signal.SIGINT)
        _, said = sweep.communicate(timeout=30)
        assert sweep.returncode == 130, said
        assert "what was answered is kept" in said
        wait_until(lambda: not cluster.rehearsals("first"))
        before = cluster.kept()
        assert 1 <= len(before) < 4

        cluster.start_worker("second")
        sweep = cluster.started(cluster.elsewhere(model))
        cluster.until(sweep, lambda: cluster.rehearsals("first"))
        cluster.kill("first")
        wait_until(lambda: not cluster.rehearsals("first"))
        printed, said = sweep.communicate(timeout=PATIENCE_S)
        assert sweep.returncode == 0, said
        found = from_json(printed)
        assert {one.tricks[0] for one in found.alone} == set(TRICKS.split(","))
        assert found.left_out == ()
        assert {one.report.source for one in found.alone} == {"rehearsed"}
        after = cluster.kept()
        assert before < after

        here = cluster.run(cluster.command(model, "--jobs", "1"))
        assert here[:2] == (0, printed)
        assert cluster.kept() == after  # nothing was rehearsed here


def test_what_a_worker_leaves_unfinished_is_rehearsed_by_another(model, tmp_path):
    with cluster_of(tmp_path) as cluster:
        cluster.start_worker("first")
        sweep = cluster.started(cluster.elsewhere(model))
        cluster.until(sweep, lambda: cluster.rehearsals("first"))
        worker = cluster.processes.pop("first")
        worker.terminate()
        worker.wait(60)
        assert not cluster.rehearsals("first")
        cluster.start_worker("second")
        printed, said = sweep.communicate(timeout=PATIENCE_S)
        assert sweep.returncode == 0, said
        assert from_json(printed).left_out == ()


def test_nothing_is_rehearsed_for_one_who_is_dead(model, tmp_path):
    with cluster_of(tmp_path) as cluster:
        cluster.start_worker("only")
        sweep = cluster.started(cluster.elsewhere(model))
        cluster.until(sweep, lambda: cluster.rehearsals("only"))
        sweep.kill()
        wait_until(lambda: not cluster.rehearsals("only"))
        time.sleep(2)
        assert not cluster.rehearsals("only")  # nor is the next one begun
        assert cluster.processes["only"].poll() is None


def test_who_has_the_certificate_is_let_in(model, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl makes a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    tls = "DASK_DISTRIBUTED__COMM__TLS__"
    files = {f"{tls}CA_FILE": str(certificate)}
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        files |= {f"{tls}{role}__CERT": str(certificate), f"{tls}{role}__KEY": str(key)}
    with cluster_of(tmp_path, "--protocol", "tls", **files) as cluster:
        code, _, said = cluster.run(cluster.elsewhere(model))
        assert (code, "has no workers" in error_in(said)) == (2, True)
        files[f"{tls}CLIENT__CERT"] = str(tmp_path / "no.pem")
        for variables, words in (
            (files, "cannot be read: [Errno 2] No such file"),
            ({}, "needs a certificate"),
        ):
            cluster.variables = {**os.environ, **variables}
            code, _, said = cluster.run(cluster.elsewhere(model))
            assert (code, words in error_in(said)) == (2, True)


def test_processes_of_the_standard_library_are_an_executor(
    model, tmp_path, monkeypatch
):
    monkeypatch.setenv("MEMPLAN_CACHE", str(tmp_path / "worker"))
    plan = TrainingPlan(model=str(model))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        engine = Rehearsals(folder=tmp_path / "asker", executor=executor)
        [(_, report)] = engine.look([plan])
    assert report.source == "rehearsed"
    assert len([*tmp_path.glob("asker/*.json")]) == 1


def test_a_scheduler_that_goes_away_is_one_sentence(model, tmp_path):
    with cluster_of(tmp_path) as cluster:
        cluster.start_worker("only")
        sweep = cluster.started(cluster.elsewhere(model))
        cluster.until(sweep, lambda: cluster.kept() and cluster.rehearsals("only"))
        cluster.kill("scheduler")
        _, said = sweep.communicate(timeout=60)
        assert sweep.returncode == 2, said
        assert error_in(said) == "error: The executor went away before all was done."
        assert "What was answered is kept" in said
        assert cluster.kept()
        wait_until(lambda: not cluster.rehearsals("only"))


def test_what_kills_every_worker_is_a_reason(model, tmp_path):
    failures = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    with cluster_of(tmp_path, **failures) as cluster:
        cluster.start_worker("only")
        sweep = cluster.started(cluster.elsewhere(model))
        cluster.until(sweep, lambda: cluster.rehearsals("only"))
        cluster.kill("only")
        cluster.start_worker("next")
        _, said = sweep.communicate(timeout=PATIENCE_S)
        assert sweep.returncode == 2, said
        assert "every worker that rehearsed it died" in error_in(said)


def test_workers_of_other_versions_are_refused(model, tmp_path):
    other = tmp_path / "other" / "torch-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torch\nVersion: 0.0.1"
    )
    with cluster_of(tmp_path) as cluster:
        without = cluster.run(cluster.elsewhere(model))
        assert without[0] == 2
        assert "has no workers" in error_in(without[2])
        cluster.start_worker("old", PYTHONPATH=before_others(other.parent))
        code, _, said = cluster.run(cluster.elsewhere(model))
        assert code == 2
        assert "has torch 0.0.1; here it is torch " in error_in(said)
        assert not cluster.kept()


def test_a_worker_without_memplan_is_one_sentence(model, tmp_path):
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import sys; sys.modules['memplan'] = None"
    )
    with cluster_of(tmp_path) as cluster:
        cluster.start_worker("fine")
        cluster.start_worker("bare", PYTHONPATH=before_others(hidden))
        code, _, said = cluster.run(cluster.elsewhere(model))
        assert code == 2
        assert "memplan is not installed for the workers tcp:" in error_in(said)
