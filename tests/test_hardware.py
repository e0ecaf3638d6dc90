"""The catalogue of cards is complete, names are unique, and nothing is guessed."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from memplan import hardware
from memplan.errors import ProfileError, UnknownNameError
from memplan.hardware import Gpu, all_gpus, custom_gpu, find_gpu, gpu_names
from memplan.units import GiB, MiB


def each(gpus: Iterable[Gpu]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("gpu", [*gpus], ids=lambda gpu: gpu.slug)


every_gpu = each(all_gpus())

SOUND = """\
name = "NVIDIA Test"
aliases = ["test"]
architecture = "hopper"
compute_capability = "9.0"
num_sms = 132
total_bytes = 85017755648
total_bytes_basis = "reported"
memory_bandwidth_bytes_per_s = 3_350_000_000_000

[peak_flops]
bf16 = 989.4e12

[context]
bytes = 110100480
torch = "2.11 cu128"

[sources]
total_bytes = "a report"
compute = "a datasheet"
context = "a measurement"
"""

# A card's slug, and other names for it.
SAME_CARD = [
    ("h100-80gb", "H100-80GB"),
    ("h100-80gb", "h100_80gb"),
    ("h100-80gb", " h100 80gb "),
    ("h100-80gb", "h100"),
    ("h100-80gb", "NVIDIA H100 80GB HBM3"),
    ("h200-141gb", "h200"),
    ("b200-180gb", "b200"),
    ("a100-80gb", "NVIDIA A100-SXM4-80GB"),
    ("rtx-4090", "RTX_4090"),
    ("rtx-4090", "NVIDIA GeForce RTX 4090"),
]

# What is replaced in a sound file, by what, and what the error says of it.
DAMAGE = [
    ("num_sms = 132", "", "num_sms is missing"),
    ("num_sms = 132", "num_sms = -1", "num_sms must be a positive whole number"),
    ('name = "NVIDIA Test"', "name = 3", "name must be a text, not 3"),
    ('["test"]', '"test"', "aliases must be a list of texts"),
    ('"9.0"', '"nine"', "compute_capability must be a text such as '9.0'"),
    ('"reported"', '"rumour"', "total_bytes_basis must be 'reported'"),
    ("989.4e12", "0.0", "peak_flops.bf16 must be a positive number"),
    ("bf16 =", "bf61 =", "peak_flops.bf61 is not a key memplan knows"),
    ('torch = "2.11 cu128"', "", "context.torch is missing"),
    ('context = "a measurement"', "", "sources.context is missing"),
    ('compute = "a datasheet"', "", "sources.compute is missing"),
    ("name =", "name", "Expected '='"),
]


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(hardware, "_directory", lambda: tmp_path)
    return tmp_path


def test_the_catalogue_has_at_least_36_cards():
    assert len(gpu_names()) >= 36


def test_every_name_belongs_to_one_card():
    owners = Counter(name for gpu in all_gpus() for name in hardware._names(gpu))
    assert [name for name, count in owners.items() if count > 1] == []


@every_gpu
def test_every_card_is_found_by_every_name_of_it(gpu: Gpu):
    assert {find_gpu(name) for name in (gpu.slug, gpu.name, *gpu.aliases)} == {gpu}


@every_gpu
def test_a_card_is_known_apart_from_its_context(gpu: Gpu):
    known = (gpu.architecture, gpu.compute_capability, gpu.num_sms)
    assert None not in (*known, gpu.memory_bandwidth_bytes_per_s)


@every_gpu
def test_every_card_states_its_fp32_rate(gpu: Gpu):
    assert "fp32" in gpu.peak_flops


@every_gpu
def test_fp32_rate_is_two_operations_a_lane_at_a_real_clock(gpu: Gpu):
    lanes_per_sm = (
        64 if gpu.compute_capability in {(6, 0), (7, 0), (7, 5), (8, 0)} else 128
    )
    clock_hz = gpu.peak_flops["fp32"] / (2 * lanes_per_sm * gpu.num_sms)
    assert 1.2e9 < clock_hz < 2.7e9


@each(gpu for gpu in all_gpus() if re.search(r"-\d+gb", gpu.slug))
def test_total_is_close_to_the_size_in_the_slug(gpu: Gpu):
    size_gib = int(re.findall(r"-(\d+)gb", gpu.slug)[0])
    assert 0.9 <= gpu.total_bytes / (size_gib * GiB) <= 1.01


@every_gpu
def test_bf16_needs_ampere_or_newer(gpu: Gpu):
    assert ("bf16" not in gpu.peak_flops) or gpu.compute_capability >= (8, 0)


@every_gpu
def test_fp8_needs_ada_or_newer(gpu: Gpu):
    assert ("fp8" not in gpu.peak_flops) or gpu.compute_capability >= (8, 9)


@every_gpu
def test_every_group_of_values_has_a_source(gpu: Gpu):
    context = {"context"} if gpu.context_bytes is not None else set()
    assert set(gpu.sources) == {"total_bytes", "compute"} | context


@each(gpu for gpu in all_gpus() if gpu.total_bytes_basis == "reported")
def test_a_byte_exact_total_is_quoted_in_its_source(gpu: Gpu):
    assert str(gpu.total_bytes) in gpu.sources["total_bytes"].replace(",", "")


@each(gpu for gpu in all_gpus() if gpu.total_bytes_basis == "rounded report")
def test_a_rounded_total_is_a_whole_number_of_mib(gpu: Gpu):
    assert gpu.total_bytes % MiB == 0


@pytest.mark.parametrize(("slug", "name"), SAME_CARD)
def test_a_card_goes_by(slug: str, name: str):
    assert find_gpu(name).slug == slug


def test_h100_total_is_what_cuda_reports():
    assert find_gpu("h100").total_bytes == 85017755648


def test_an_unknown_card_is_not_guessed():
    with pytest.raises(UnknownNameError, match="There is no GPU named 'h100-81gb'"):
        find_gpu("h100-81gb")


def test_an_unknown_card_is_answered_with_close_names():
    with pytest.raises(UnknownNameError) as caught:
        find_gpu("RTX 4095")
    assert "rtx-4090" in caught.value.hint


def test_a_path_is_not_a_name():
    with pytest.raises(UnknownNameError):
        find_gpu("../gpus/t4")


def test_a_slug_reads_only_its_own_file(catalogue: Path):
    (catalogue / "sound.toml").write_text(SOUND)
    (catalogue / "broken.toml").write_text("=")
    assert find_gpu("sound").num_sms == 132


def test_a_context_is_read(catalogue: Path):
    (catalogue / "sound.toml").write_text(SOUND)
    gpu = find_gpu("test")
    assert (gpu.context_bytes, gpu.context_basis) == (110100480, "2.11 cu128")


def test_a_file_without_a_context_has_none(catalogue: Path):
    head, rest = SOUND.split("[context]")
    sources = "[sources]" + rest.split("[sources]")[1].replace("context =", "#")
    (catalogue / "sound.toml").write_text(head + sources)
    assert find_gpu("sound").context_bytes is None


@pytest.mark.parametrize(("sound", "damaged", "problem"), DAMAGE)
def test_a_damaged_file_is_named_with_its_key_and_problem(
    catalogue: Path, sound: str, damaged: str, problem: str
):
    assert SOUND.count(sound) == 1
    (catalogue / "broken.toml").write_text(SOUND.replace(sound, damaged))
    with pytest.raises(ProfileError) as caught:
        find_gpu("broken")
    assert caught.value.message.startswith("profiles/gpus/broken.toml is damaged: ")
    assert problem in caught.value.message


def test_a_custom_total_keeps_the_card():
    assert custom_gpu(find_gpu("rtx-3090"), 20 * GiB).num_sms == 82


def test_a_custom_total_is_given():
    gpu = custom_gpu(find_gpu("rtx-3090"), 20 * GiB)
    assert (gpu.total_bytes, gpu.total_bytes_basis) == (20 * GiB, "given")


def test_a_custom_total_alone_claims_nothing_else():
    gpu = custom_gpu(None, 24 * GiB)
    assert gpu.architecture is gpu.compute_capability is gpu.context_bytes is None


@pytest.mark.parametrize("total_bytes", [0, -1])
def test_a_custom_total_is_positive(total_bytes: int):
    with pytest.raises(ValueError, match="must be positive"):
        custom_gpu(None, total_bytes)


def test_the_module_is_imported_without_its_toml_reader_or_torch():
    code = (
        "import sys, memplan.hardware;"
        "assert not {'tomllib', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
