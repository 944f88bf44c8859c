from datetime import UTC, datetime
from decimal import Decimal

import pytest

from tidegauge.errors import SettingsError
from tidegauge.processors.core import pricing
from tidegauge.processors.core.price_names import PRICE_PROVIDERS, price_provider
from tidegauge.processors.core.pricing import Cost, Overrides, PriceTable, Rates, UnitPrice


def at(*moment: int) -> float:
    return datetime(*moment, tzinfo=UTC).timestamp()  # type: ignore[arg-type]


NOW = at(2026, 11, 1)


def per_token(unit: UnitPrice | None) -> tuple[int, int]:
    assert unit is not None
    cost = unit.cost(1, 1)
    return cost.input, cost.output


def test_a_request_with_caches_costs_what_anthropic_publishes():
    unit = PriceTable().unit("anthropic", "claude-opus-4-5-20251101", NOW)
    assert unit is not None
    # 5 / 25 / 0.50 / 6.25 / 10 USD per million tokens
    assert unit.cost(10_000, 100, 4_000, 3_000, 1_000) == Cost(
        total=3_000 * 5_000 + 100 * 25_000 + 4_000 * 500 + 2_000 * 6_250 + 1_000 * 10_000,
        input=15_000_000,
        output=2_500_000,
        cache_read=2_000_000,
        cache_creation=22_500_000,
    )


def test_a_long_request_is_billed_at_the_higher_tier_as_a_whole():
    unit = PriceTable().unit("anthropic", "claude-sonnet-4-5", NOW)
    assert unit is not None
    assert unit.cost(200_000, 10).total == 200_000 * 3_000 + 10 * 15_000
    assert unit.cost(200_001, 10).total == 200_001 * 6_000 + 10 * 22_500


def test_a_price_change_holds_from_midnight_utc():
    table = PriceTable()
    before = table.unit("anthropic", "claude-opus-4-6", at(2026, 3, 12, 23, 59, 59))
    after = table.unit("anthropic", "claude-opus-4-6", at(2026, 3, 13))
    assert before is not None
    assert after is not None
    assert before.cost(300_000, 0).total == 2 * after.cost(300_000, 0).total


def test_prices_that_depend_on_the_hour_follow_the_clock():
    table = PriceTable()
    day = [per_token(table.unit("deepseek", "deepseek-v4-pro", at(2026, 11, 2, hour))) for hour in range(24)]
    assert len(set(day)) == 2
    assert {hour for hour in range(24) if day[hour] != day[0]} == {1, 2, 3, 6, 7, 8, 9}


@pytest.mark.parametrize(
    ("provider", "model", "price_list"),
    [
        ("azure.ai.openai", "gpt-4o", "azure"),
        ("x_ai", "grok-4", "x-ai"),
        ("aws.bedrock", "anthropic.claude-sonnet-4-5-20250929-v1:0", "aws"),
        ("gcp.vertex_ai", "gemini-2.5-pro", "google"),
        ("mistral_ai", "mistral-large-latest", "mistral"),
    ],
)
def test_opentelemetry_names_find_the_right_price_list(provider, model, price_list):
    assert price_provider(provider) == price_list
    unit = PriceTable().unit(provider, model, NOW)
    assert unit is not None
    assert not unit.inferred


def test_every_mapped_provider_is_in_the_price_table():
    assert set(PRICE_PROVIDERS.values()) <= pricing._PROVIDERS.keys()


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "no-such-model"),
        ("my-own-server", "gpt-4o"),
        ("ibm.watsonx.ai", "granite"),
        ("openai", ""),
        ("", "no-such-model"),
        ("groq", "whisper-large-v3"),  # billed by the hour of audio
        ("google", "gemma-3"),  # its entry holds no price at all
    ],
)
def test_what_is_not_known_is_unpriced_and_not_free(provider, model):
    table = PriceTable()
    assert table.unit(provider, model, NOW) is None
    assert table.unit(provider, model, NOW) is None


def test_without_a_provider_the_models_name_decides_and_the_price_says_so():
    unit = PriceTable().unit("", "claude-opus-4-5", NOW)
    assert unit is not None
    assert unit.inferred
    assert per_token(unit) == (5_000, 25_000)


def test_a_flood_of_unknown_models_neither_grows_memory_nor_forgets_real_ones(monkeypatch):
    monkeypatch.setattr(pricing, "MAX_UNKNOWN", 50)
    monkeypatch.setattr(pricing, "MAX_KNOWN", 50)
    table = PriceTable()
    known = table.unit("anthropic", "claude-opus-4-5", NOW)
    for number in range(200):
        table.unit("openai", f"no-such-model-{number}", NOW)
        table.unit("anthropic", f"claude-opus-4-5-made-up-{number}", NOW)
    assert max(len(table._known), len(table._unknown), len(table._models)) <= 50
    assert table.unit("anthropic", "claude-opus-4-5", NOW) is known


def test_contradicting_counts_are_bounded():
    unit = UnitPrice(Rates(Decimal(2), Decimal(4), Decimal(1), Decimal(3), Decimal(5)))
    assert unit.cost(10, 0, 20, 0, 0) == Cost(20_000, 0, 0, 20_000, 0)
    assert unit.cost(10, 0, 0, 5, 99) == Cost(35_000, 10_000, 0, 0, 25_000)


def test_an_override_goes_before_the_table_within_its_days():
    table = PriceTable(
        Overrides.parse(
            """
            [[price]]
            provider = "anthropic"
            model = "claude-opus-4-5*"
            from = 2026-10-01
            to = "2026-11-01"
            input = 4
            output = "20.5"
            cache_creation = 5.0
            """,
            "prices.toml",
        )
    )
    model = "claude-opus-4-5-20251101"
    assert per_token(table.unit("anthropic", model, at(2026, 9, 30, 23, 59))) == (5_000, 25_000)
    assert per_token(table.unit("anthropic", model, at(2026, 10, 1))) == (4_000, 20_500)
    assert per_token(table.unit("anthropic", model, at(2026, 10, 31, 23, 59))) == (4_000, 20_500)
    assert per_token(table.unit("anthropic", model, at(2026, 11, 1))) == (5_000, 25_000)
    unit = table.unit("anthropic", model, at(2026, 10, 1))
    assert unit is not None
    assert unit.cost(30, 0, 10, 20, 5) == Cost(10 * 4_000 + 15 * 5_000 + 5 * 8_000, 0, 0, 40_000, 115_000)


def test_overrides_price_providers_of_ones_own_and_the_longest_prefix_wins():
    entry = '[[price]]\nprovider = "vllm"\nmodel = "{}"\ninput = {}\noutput = 0\n'
    names = [("llama-*", 1), ("llama-70b", 3), ("llama-7*", 2)]
    text = "".join(entry.format(model, rate) for model, rate in names)
    table = PriceTable(Overrides.parse(text, "prices.toml"))
    models = ("Llama-70B", "llama-70b-x", "llama-1b")
    assert [per_token(table.unit("vllm", m, NOW))[0] for m in models] == [3_000, 2_000, 1_000]
    assert table.unit("vllm", "qwen", NOW) is None


def test_the_version_names_the_table_and_the_overrides():
    plain = PriceTable().version
    one = PriceTable(Overrides.parse("", "a.toml")).version
    other = PriceTable(Overrides.parse("# changed", "a.toml")).version
    assert len({plain, one, other}) == 3
    assert plain.startswith("genai-prices ")


GOOD = {"provider": '"p"', "model": '"m"', "input": "1", "output": "2"}


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("input", '"cheap"', "input: expected USD per million tokens"),
        ("input", "-1", "input: expected"),
        ("input", "nan", "input: expected"),
        ("output", "true", "output: expected"),
        ("output", '"1e-19"', "output: expected"),
        ("output", None, "output: is required"),
        ("model", '"a*b"', "model: expected * only at the end"),
        ("model", '""', "model: expected a name"),
        ("from", '"soon"', "from: expected a day"),
        ("from", "2026-01-01T00:00:00Z", "from: expected a day"),
        ("to", "1969-01-01", "to: expected a day after from"),
        ("inptu", "1", "inptu: no such field"),
    ],
)
def test_a_wrong_override_is_refused_with_file_entry_and_field(field, value, told):
    def table(fields):
        return "[[price]]\n" + "".join(f"{k} = {v}\n" for k, v in fields.items() if v is not None)

    text = table(GOOD | {"model": '"other"'}) + table(GOOD | {field: value})
    with pytest.raises(SettingsError, match=r"^prices\.toml: \[\[price\]\] 2: ") as caught:
        Overrides.parse(text, "prices.toml")
    assert told in str(caught.value)


def test_two_prices_for_one_day_are_refused():
    entry = '[[price]]\nprovider = "azure.ai.openai"\nmodel = "m"\ninput = 1\noutput = 1\n'
    with pytest.raises(SettingsError, match="overlaps with entry 1"):
        Overrides.parse(entry + entry.replace("azure.ai.openai", "azure"), "prices.toml")


@pytest.mark.parametrize(
    ("text", "told"),
    [("[[prices]]", "prices: no such"), ("price = 1", "list of tables"), ("=", "prices.toml:")],
)
def test_a_file_of_another_kind_is_refused(text, told):
    with pytest.raises(SettingsError, match=told):
        Overrides.parse(text, "prices.toml")
