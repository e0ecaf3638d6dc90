"""A hub id: only config.json is fetched, the cache and offline mode are honoured."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as fetching one file takes."""

    asked: list[str]

    def do_HEAD(self):
        self.respond(with_body=False)

    def do_GET(self):
        self.respond(with_body=True)

    def respond(self, with_body):
        self.server.asked.append(self.path)
        body = json.dumps(CONFIG).encode()
        status = {
            "/org/gated/": (403, {"X-Error-Code": "GatedRepo"}),
            "/org/gone/": (404, {"X-Error-Code": "RepoNotFound"}),
            "/org/bare/": (404, {"X-Error-Code": "EntryNotFound"}),
            "/org/broken/": (500, {}),
        }
        for prefix, (code, headers) in status.items():
            if self.path.startswith(prefix):
                self.send_response(code)
                for name, value in {**headers, "X-Repo-Commit": COMMIT}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"0123"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *words):
        pass


@pytest.fixture
def hub():
    """A hub on this machine's loopback address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def estimate(model, home, *words, **environment):
    """Run the command line with a cache of its own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-m", "memplan", "estimate", model, *words, "--json"],
        capture_output=True,
        text=True,
        env={**clean, "HF_HOME": str(home), **environment},
        timeout=120,
    )


def endpoint(server):
    return f"http://127.0.0.1:{server.server_port}"


def test_only_config_json_is_fetched(hub, tmp_path):
    done = estimate("org/model", tmp_path, HF_ENDPOINT=endpoint(hub))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"]["name"] == "org/model"
    assert {path.rsplit("/", 1)[1] for path in hub.asked} == {"config.json"}


def test_the_revision_asked_for_is_fetched(hub, tmp_path):
    estimate("org/model", tmp_path, "--revision", "v2", HF_ENDPOINT=endpoint(hub))
    assert all("/v2/" in path for path in hub.asked)


def test_offline_mode_uses_the_cache_and_asks_nobody(hub, tmp_path):
    first = estimate("org/model", tmp_path, HF_ENDPOINT=endpoint(hub))
    hub.asked.clear()
    again = estimate(
        "org/model", tmp_path, HF_ENDPOINT=endpoint(hub), HF_HUB_OFFLINE="1"
    )
    assert again.stdout == first.stdout
    assert hub.asked == []


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("org/gated", "gated"),
        ("org/gone", "no model"),
        ("org/bare", "no config.json"),
    ],
)
def test_what_the_hub_refuses_is_said(hub, tmp_path, model, says):
    done = estimate(model, tmp_path, HF_ENDPOINT=endpoint(hub))
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_hub_out_of_reach_is_said(tmp_path):
    done = estimate("org/model", tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 2
    assert "cannot be reached" in done.stderr or "could not be fetched" in done.stderr
    assert "Traceback" not in done.stderr
