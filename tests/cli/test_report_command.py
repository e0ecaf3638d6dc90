"""`memplan report`: formats, where they are written, and what is refused."""

import json
import shutil
from importlib import import_module

import page_files
import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")


@pytest.fixture
def run(tmp_path):
    return page_files.program(tmp_path)


@pytest.fixture
def tricks(tmp_path):
    return page_files.compared(tmp_path)


def test_html_lies_beside_the_first_file_under_its_name(memplan, run, tricks):
    out = memplan("report", str(run), str(tricks))
    assert out.code == 0
    assert out.stdout == ""
    page = run.with_suffix(".html")
    assert out.stderr == f"{page}: 2 runs\n"
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_what_is_there_is_not_overwritten(memplan, run):
    page = run.with_suffix(".html")
    page.write_text("mine")
    out = memplan("report", str(run))
    assert out.code == 2
    assert "exists already" in out.stderr
    assert "--force" in out.stderr
    assert page.read_text() == "mine"
    assert memplan("report", str(run), "--force").code == 0
    assert page.read_text(encoding="utf-8") != "mine"


@pytest.mark.parametrize("form", ["md", "csv", "json"])
def test_what_is_text_goes_to_stdout(memplan, run, form):
    out = memplan("report", str(run), "--format", form)
    assert out.code == 0
    assert out.stderr == ""
    begins = {"md": "# Decoder on rtx-4090\n", "csv": "file,kind,", "json": "{\n"}
    assert out.stdout.startswith(begins[form])
    assert not run.with_suffix(f".{form}").exists()


def test_the_name_of_the_output_says_the_format(memplan, run, tmp_path):
    for form, begins in {"md": "# ", "csv": "file", "json": "{", "html": "<"}.items():
        page = tmp_path / f"page.{form}"
        assert memplan("report", str(run), "-o", str(page)).code == 0
        assert page.read_text(encoding="utf-8").startswith(begins)
    other = tmp_path / "sheet.txt"
    assert memplan("report", str(run), "--format", "csv", "-o", str(other)).code == 0
    assert other.read_text().startswith("file,kind")


def test_json_is_the_same_as_its_format(memplan, run, tricks):
    out = memplan("report", str(run), str(tricks), "--json")
    data = json.loads(out.stdout)
    assert [one["file"] for one in data["inputs"]] == ["run.mplan", "tricks.json"]
    assert data["kind"] == "page"


def test_a_title_stands_in_place_of_the_run(memplan, run):
    out = memplan("report", str(run), "--format", "md", "--title", "Before <b>")
    assert out.stdout.startswith("# Before \\<b\\>\n")


def test_redacted_it_names_no_command(memplan, run):
    out = memplan("report", str(run), "--format", "md", "--redact")
    assert "train.py" in memplan("report", str(run), "--format", "md").stdout
    assert "python train.py" not in out.stdout


def test_a_page_can_be_made_of_what_estimate_prints(memplan, tmp_path):
    plan = tmp_path / "plan.json"
    assert memplan("estimate", "gpt2", "--gpu", "t4", "-o", str(plan)).code == 0
    out = memplan("report", str(plan), "--format", "md")
    assert out.stdout.startswith("# gpt2 on t4\n\n**fits** gpt2 on t4: ")


@pytest.mark.parametrize("content", ["{", "[]", '{"kind": "comparison"}', "PK"])
def test_what_is_no_report_is_refused_in_a_sentence(memplan, tmp_path, content):
    file = tmp_path / "broken.json"
    file.write_text(content)
    out = memplan("report", str(file))
    assert out.code == 2
    assert out.stderr.startswith("error: ")
    assert "broken.json" in out.stderr
    assert "hint: " in out.stderr
    assert not file.with_suffix(".html").exists()


def test_a_file_that_is_not_there_is_named(memplan, tmp_path):
    out = memplan("report", str(tmp_path / "no.json"))
    assert out.code == 2
    assert "no.json cannot be read" in out.stderr


# ---- pictures ----


def test_without_kaleido_pictures_are_refused_with_how_to_get_it(
    memplan, run, tmp_path, monkeypatch
):
    module = import_module("memplan.views.pictures")
    monkeypatch.setattr(module, "find_spec", lambda name: name != "kaleido" or None)
    folder = tmp_path / "plots"
    out = memplan("report", str(run), "--png", str(folder))
    assert out.code == 2
    assert out.stderr == (
        "error: Pictures need kaleido, which is not installed.\n"
        "hint: pip install 'memplan[images]'\n"
    )
    assert not folder.exists()
    assert not run.with_suffix(".html").exists()


@pytest.mark.slow
def test_each_plot_is_a_picture(memplan, tricks, tmp_path):
    pytest.importorskip("kaleido", reason="the extra `images` is not installed")
    if not any(map(shutil.which, BROWSERS)):
        pytest.skip("there is no Chrome and no Chromium, with which kaleido draws")
    folder = tmp_path / "plots"
    words = ("report", str(tricks), "--png", str(folder))
    assert memplan(*words, "--force").code == 0
    drawn = sorted(folder.iterdir())
    assert [file.name for file in drawn] == [
        *("budget-tricks-0.png", "speed-0.png"),
        *("step-0.png", "step-1.png", "tricks-0.png"),
    ]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in drawn)
    out = memplan(*words, "--format", "md")
    assert out.code == 2
    assert "exists already" in out.stderr
