"""A card of the catalogue, as the virtual device is told of it."""

import pytest

from memplan.hardware import all_gpus, custom_gpu, find_gpu
from memplan.units import GiB, KiB, MiB
from memplan.virtual.card import LIMITS, MAX_DEVICES, describe
from memplan.virtual.libraries import SOURCE


def fields(gpu, **options):
    options = {"context_bytes": 500 * MiB, "driver_version": 13000, **options}
    text = describe(gpu, **options).text
    return dict(item.split("=") for item in text.split(";"))


def test_an_h100_is_described_by_its_profile_and_the_limits_of_its_sms():
    h100 = find_gpu("h100-80gb")
    said = fields(h100, num_devices=8, nccl_bytes=GiB)
    assert said["name"] == "NVIDIA H100 80GB HBM3"
    assert int(said["total_bytes"]) == h100.total_bytes
    assert int(said["context_bytes"]) == 500 * MiB
    assert int(said["nccl_bytes"]) == GiB
    assert (said["count"], said["compute_capability"]) == ("8", "90")
    assert (said["num_sms"], said["threads_per_sm"]) == ("132", "2048")
    assert int(said["shared_per_sm"]) == 228 * KiB
    assert int(said["shared_optin"]) == 227 * KiB
    assert said["addresses"] == "down"


def test_two_transfers_a_clock_over_the_bus_give_the_bandwidth_of_the_profile():
    for gpu in all_gpus():
        said = fields(gpu)
        bandwidth = 2 * int(said["memory_clock_khz"]) * 1000 * int(said["bus_bits"]) / 8
        assert bandwidth == pytest.approx(gpu.memory_bandwidth_bytes_per_s, rel=5e-3)


def test_a_memory_clock_read_off_a_card_is_kept_where_the_bandwidth_is_rounded():
    assert fields(find_gpu("h100-80gb"))["memory_clock_khz"] == "2619000"
    assert fields(find_gpu("v100-16gb"))["memory_clock_khz"] == "877000"


def test_the_limits_of_every_card_of_the_catalogue_are_known():
    assert {gpu.compute_capability for gpu in all_gpus()} <= set(LIMITS)


def test_an_sm_reserves_a_kib_of_shared_memory_a_block_since_8_0():
    for capability, limits in LIMITS.items():
        assert limits.shared_reserved == (KiB if capability >= (8, 0) else 0)
        assert limits.shared_optin <= limits.shared_per_sm - limits.shared_reserved
        assert limits.threads_per_sm % 32 == 0


def test_what_a_card_does_not_say_is_assumed_and_said():
    unknown = custom_gpu(None, 24 * GiB)
    said = fields(unknown)
    assert (said["compute_capability"], said["num_sms"]) == ("80", "108")
    assumptions = describe(unknown, context_bytes=0, driver_version=13000).assumptions
    assert len(assumptions) == 2
    assert "compute capability 8.0 assumed" in assumptions[0]
    assert "108 multiprocessors assumed" in assumptions[1]


def test_a_capability_of_tomorrow_takes_the_limits_of_the_nearest_below():
    from dataclasses import replace

    new = replace(find_gpu("b200"), compute_capability=(10, 7))
    description = describe(new, context_bytes=0, driver_version=13000)
    assert "compute_capability=107;" in description.text
    assert "limits of compute capability 10.3 assumed" in description.assumptions[0]


def test_a_card_that_cuda_13_has_left_behind_is_said_to_be():
    v100 = find_gpu("v100-32gb")
    (said,) = describe(v100, context_bytes=0, driver_version=13000).assumptions
    assert "no kernels for compute capability 7.0" in said
    assert not describe(v100, context_bytes=0, driver_version=12080).assumptions


def test_the_device_holds_as_many_cards_as_are_allowed():
    header = (SOURCE / "device.h").read_text()
    assert f"#define VD_MAX_DEVICES {MAX_DEVICES}\n" in header


def test_a_name_cannot_add_a_field():
    from dataclasses import replace

    named = replace(find_gpu("t4"), name="card;total_bytes=1")
    assert fields(named)["total_bytes"] == str(find_gpu("t4").total_bytes)


@pytest.mark.parametrize(
    "wrong",
    [{"num_devices": 0}, {"num_devices": 17}, {"addresses": "sideways"}],
    ids=str,
)
def test_a_wrong_option_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        fields(find_gpu("t4"), **wrong)
