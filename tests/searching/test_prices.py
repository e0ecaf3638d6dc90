"""Prices: shipped, a user's own, stale, broken; and budgets as people write them."""

from contextlib import suppress
from datetime import date, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memplan.errors import PlanError, ProfileError
from memplan.hardware import find_gpu
from memplan.searching.prices import STALE_DAYS, budget_of, read_prices

OWN = """
provider = "Us"

[[offers]]
gpu = "H100"
usd_per_gpu_hour = 2
as_of = 2026-01-02
source = "our contract"

[[offers]]
gpu = "h100-80gb"
gpus = 8
usd_per_gpu_hour = 1.5
as_of = 2026-01-02
source = "our contract"
"""


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "prices.toml"
    file.write_text(OWN)
    return read_prices(file)


def test_shipped_prices_are_of_known_cards_and_say_when_and_where():
    offers = [offer for some in read_prices().lists for offer in some.offers]
    assert {"a100-80gb", "h100-80gb"} <= {offer.gpu for offer in offers}
    for offer in offers:
        assert find_gpu(offer.gpu).slug == offer.gpu
        assert "http" in offer.source or "price list" in offer.source
        assert date(2025, 1, 1) < offer.as_of < date(2100, 1, 1)


@pytest.mark.parametrize(
    ("num_gpus", "usd_per_hour", "billed"),
    # By the one 2 each; by eight 1.5 each, for as many eights as it takes.
    [(1, 2, 1), (4, 8, 4), (6, 12, 6), (7, 12, 8), (8, 12, 8), (16, 24, 16)],
)
def test_the_cheapest_way_to_so_many(own, num_gpus, usd_per_hour, billed):
    price = own.of("h100-80gb", num_gpus)
    assert (price.usd_per_hour, price.billed_gpus) == (usd_per_hour, billed)


def test_a_card_that_nobody_offers_has_no_price(own):
    assert own.of("rtx-4090", 1) is None


def test_a_price_is_stale_after_half_a_year(own):
    price = own.of("h100-80gb", 1)
    last = price.as_of + timedelta(days=STALE_DAYS)
    assert not price.is_stale(last)
    assert price.is_stale(last + timedelta(days=1))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("provider = ", "Invalid value"),
        ("\0", "Invalid statement"),
        ('provider = "Us"', "offers: "),
        (OWN.replace("2\n", '"two"\n', 1), "offers.0.usd_per_gpu_hour: "),
        (OWN.replace("= 2\n", "= -2\n", 1), "-2.0 is no price"),
        (OWN.replace("= 2\n", "= nan\n", 1), "nan is no price"),
        (OWN.replace("= 2\n", "= 1e300\n", 1), "1e+300 is no price"),
        (OWN.replace("= 8\n", "= 0\n", 1), "an instance of 0 GPUs"),
        (OWN.replace("= 8\n", f"= {10**18}\n", 1), "GPUs is none"),
        (OWN.replace("H100", "voodoo-2"), "offers.0.gpu: There is no GPU"),
        (OWN.replace("2026-01-02", '"soon"', 1), "offers.0.as_of: "),
        (OWN + "spot = 1\n", "offers.1.spot: "),
    ],
)
def test_a_broken_file_is_answered_by_file_key_and_problem(tmp_path, text, said):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ProfileError) as caught:
        read_prices(file)
    assert str(file) in caught.value.message
    assert said in caught.value.message
    assert "\n" not in caught.value.message


def test_what_a_file_says_cannot_steer_a_terminal(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(OWN.replace('"Us"', '"\\u001b[31mUs"'))
    assert read_prices(file).of("h100-80gb", 1).provider == "\\x1b[31mUs"
    file.write_text(OWN + '"\\u001b[31m" = 1\n')
    with pytest.raises(ProfileError) as caught:
        read_prices(file)
    assert "\x1b" not in caught.value.message


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=200),
        st.tuples(st.integers(0, len(OWN)), st.integers(0, 20), st.text(max_size=9))
        .map(lambda cut: OWN[: cut[0]] + cut[2] + OWN[cut[0] + cut[1] :])
        .map(lambda text: text.encode("utf-8", "surrogatepass")),
    )
)
def test_any_file_is_read_or_answered(tmp_path, content):
    file = tmp_path / "any.toml"
    file.write_bytes(content)
    with suppress(ProfileError):
        assert read_prices(file).lists


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(ProfileError, match="No such file"):
        read_prices(tmp_path / "none.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ProfileError, match="decode"):
        read_prices(binary)


@pytest.mark.parametrize(
    "text", ["20USD/h", "20 USD/hour", "$20/h", "20usd/hr", " 20.0 $ / h ", "USD 20/h"]
)
def test_one_budget_in_many_spellings(text):
    assert budget_of(text) == 20


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("20EUR/h", "US dollars"),
        ("€20/h", "US dollars"),
        ("20/h", "no currency"),
        ("20USD", "no budget by the hour"),
        ("20USD/day", "no budget by the hour"),
        ("much", "no budget by the hour"),
        ("-5USD/h", "no budget by the hour"),
        ("0USD/h", "Nothing can be had"),
        ("1e9USD/h", "no budget by the hour"),
        ("", "no budget by the hour"),
    ],
)
def test_what_is_no_budget(text, said):
    with pytest.raises(PlanError, match=said):
        budget_of(text)
