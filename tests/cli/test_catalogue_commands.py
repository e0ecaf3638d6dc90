"""`memplan gpus`, `models`, `env` and the root command."""

import json
from importlib.metadata import version

from memplan.hardware import gpu_names
from memplan.models import preset_names


def test_gpus_lists_every_card(memplan):
    listed = memplan("gpus").stdout
    assert all(slug in listed for slug in gpu_names())


def test_gpus_as_json_gives_every_value_its_source(memplan):
    cards = json.loads(memplan("gpus", "--json").stdout)
    assert len(cards) == len(gpu_names())
    assert all(card["sources"]["total_bytes"] for card in cards)


def test_models_lists_every_preset(memplan):
    assert memplan("models", "--format", "quiet").stdout.split() == list(preset_names())
    listed = memplan("models").stdout
    assert all(name in listed for name in preset_names())


def test_env_names_versions(memplan):
    assert json.loads(memplan("env", "--json").stdout)["memplan"] == version("memplan")
    assert version("memplan") in memplan("env").stdout


def test_env_says_whether_this_machine_can_rehearse(memplan):
    rehearse = json.loads(memplan("env", "--json").stdout)["rehearse"]
    assert rehearse["supported"] == (not rehearse["problems"])
    verdict = "possible here" if rehearse["supported"] else "not possible here"
    assert f"rehearsing      {verdict}" in memplan("env").stdout


def test_env_asks_the_interpreter_that_will_train(memplan):
    outcome = memplan("env", "--json", "--python", "/no/python")
    rehearse = json.loads(outcome.stdout)["rehearse"]
    assert outcome.code == 0
    assert not rehearse["supported"]
    assert rehearse["problems"][0] == {
        "message": "/no/python is not a Python interpreter: No such file or directory.",
        "hint": "Name the python of the environment that will train.",
    }


def test_version_is_that_of_the_package(memplan):
    assert memplan("--version").stdout == f"memplan {version('memplan')}\n"


def test_help_names_every_verb(memplan):
    text = memplan("--help").stdout
    assert all(verb in text for verb in ("estimate", "gpus", "models", "env"))
