"""`memplan compare` as a user types it."""

import json

import pytest
from comparisons import comparison

from memplan.comparing.files import from_json
from memplan.views.comparison import next_command, show_comparison

FITTING = ("compare", "gpt2", "--batch-size", "8", "--tricks", "exact,adamw-8bit")


def test_the_view_is_as_seen_before(capsys, monkeypatch, snapshot):
    monkeypatch.setenv("COLUMNS", "80")
    show_comparison(comparison())
    printed = capsys.readouterr().out
    assert printed == snapshot
    assert max(map(len, printed.splitlines())) <= 80
    assert "\x1b" not in printed


def test_it_leads_from_what_does_not_fit_to_what_does():
    found = comparison()
    assert next_command(found).startswith("memplan rehearse gpt2")
    nothing = comparison(fits_after=None, alone=(), greedy=())
    assert "--gpu all" in next_command(nothing)


def test_json_is_the_comparison(memplan):
    result = memplan(*FITTING, "--json")
    assert result.code == 0
    found = from_json(result.stdout)
    assert found.fits_after == 0
    data = json.loads(result.stdout)
    assert data["alone"][0]["need_bytes"] == found.alone[0].need_bytes


def test_every_form_of_the_output(memplan, tmp_path):
    for ending, begins in (
        (".json", "{"),
        (".html", "<!"),
        (".md", "# "),
        (".csv", ""),
    ):
        file = tmp_path / f"tricks{ending}"
        assert memplan(*FITTING, "-o", str(file)).code == 0
        assert file.read_text().startswith(begins), ending
    again = memplan(*FITTING, "-o", str(tmp_path / "tricks.json"))
    assert again.code == 2
    assert "exists already" in again.stderr
    assert memplan(*FITTING, "-o", str(tmp_path / "tricks.json"), "-f").code == 0


def test_exit_codes_say_whether_anything_fits(memplan):
    words = ("compare", "llama-2-7b", "--gpu", "rtx-4090", "--format", "quiet")
    fits = memplan(*words, "--tricks", "nf4")
    assert (fits.code, fits.stdout) == (0, f"{fits.stdout.strip()}\n")
    assert "--quantization nf4" in fits.stdout
    nothing = memplan(*words, "--tricks", "adamw-fused,lion")
    assert (nothing.code, nothing.stdout) == (1, "-\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gpt2", "--tricks", "chekpointing"], "no trick named 'chekpointing'"),
        (["gpt2", "--gpu", "all"], "on one card"),
        (["--parameters", "7e9"], "compared on a model"),
        ([], "nothing to compare"),
        (["no-such-model"], "no model named"),
        (["gpt2", "-o", "/no/such/folder/x.html"], "cannot be written"),
        (["gpt2", "--jobs", "0"], "greater than or equal to 1"),
        (["gpt2", "--by", "guess"], "guess"),
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_one_sentence(memplan, words, said):
    result = memplan("compare", *words)
    assert result.code == 2
    assert said in result.stderr


def test_without_a_card_nothing_is_measured(memplan, monkeypatch):
    from memplan.comparing import engines
    from memplan.errors import DeviceError

    def refuse(interpreter):
        raise DeviceError("There is no CUDA device here.", hint="Rehearse.")

    monkeypatch.setattr(engines, "card_at_hand", refuse)
    result = memplan("compare", "gpt2", "--by", "profile")
    assert result.code == 2
    assert "no CUDA device" in result.stderr
