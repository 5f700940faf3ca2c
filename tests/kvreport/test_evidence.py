"""The tier that served is named from evidence, and a tick stands only on it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.kvreport.rounds import NODE_B, Setting, edited, experiment

from kvpipe.records import Served, ServerMetrics
from kvreport.conclude import conclude
from kvreport.experiments import group
from kvreport.formats import Setting as Format
from kvreport.formats import as_markdown, as_text
from kvreport.rounds import Round
from kvreport.targets import parse

CROSS = Setting(tier="remote", node_b=NODE_B)
STORE = Setting(tier="store")


def served(external: float | None, local: float | None = 0.0) -> Served:
    return Served(computed=0.0, local=local, external=external)


def shown(rounds: list[Round]) -> str:
    made = conclude(group(rounds), parse([]), tool_version="test")
    return as_text(made, Format(columns=200)) + as_markdown(made, Format())


def hit_with(setting: Setting, **changes: Any) -> list[Round]:
    cold, hit = experiment(1, setting=setting)
    return [cold, edited(hit, **changes)]


def counted(series: str) -> list[ServerMetrics]:
    return [ServerMetrics(run_id="r", url="http://b/metrics", role="node", deltas={series: 21.0})]


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"tier_served": "remote", "leaders_served": served(20_000)}, "✅ from node A to node B"),
        ({"tier_served": "remote", "leaders_served": None}, "✅ from node A to node B"),
        ({"tier_served": "mixed", "leaders_served": served(9.0)}, "✅ from node A to node B"),
        ({"tier_served": "local", "leaders_served": served(0.0, 9.0)}, "show nothing loaded"),
        ({"tier_served": "computed", "leaders_served": None}, "show nothing loaded"),
        ({"tier_served": None, "leaders_served": None}, "not shown: node B does not tell"),
        ({"tier_served": "mixed", "leaders_served": None}, "not shown: node B does not tell"),
    ],
)
def test_a_tick_stands_on_evidence(changes: dict[str, Any], phrase: str) -> None:
    text = shown(hit_with(CROSS, **changes))
    assert phrase in text
    assert ("✅ from node A" in text) == phrase.startswith("✅")


def test_one_repeat_without_transfer_takes_the_tick_away() -> None:
    rounds = experiment(3, setting=CROSS)
    local = {"tier_served": "local", "leaders_served": served(0.0, 9.0)}
    rounds[5] = edited(rounds[5], **local)
    assert "✅ from node A" not in shown(rounds)


@pytest.mark.parametrize("setting", [Setting(), STORE])
@pytest.mark.parametrize("tier", ["local", "store", None])
def test_without_evidence_no_product_is_named(setting: Setting, tier: Any) -> None:
    external = served(20_000) if tier == "store" else None
    text = shown(hit_with(setting, tier_served=tier, leaders_served=external))
    assert "LMCache" not in text and "Mooncake" not in text


@pytest.mark.parametrize(
    ("series", "product"),
    [("vllm:mooncake_store_load_keys_total", "Mooncake"), ("lmcache:num_hit_tokens", "LMCache")],
)
def test_a_product_is_named_when_its_own_counters_moved(series: str, product: str) -> None:
    changes = {"tier_served": "store", "leaders_served": served(20_000)}
    assert f"KV store ({product})" in shown(hit_with(STORE, **changes, server=counted(series)))
    local = {"tier_served": "local", "leaders_served": served(0.0, 9.0)}
    assert product not in shown(hit_with(STORE, **local, server=counted(series)))


def test_titles_name_tier_and_kind() -> None:
    assert "unit cost (serial), engine prefix cache" in shown(experiment(1))
    changes = {"tier_served": "store", "leaders_served": served(20_000)}
    assert "unit cost (serial), KV store" in shown(hit_with(STORE, **changes))
    assert "unit cost (serial), tier not shown" in shown(
        hit_with(STORE, tier_served=None, leaders_served=None)
    )
    assert "engine prefix cache" in shown(
        hit_with(STORE, tier_served="local", leaders_served=served(0.0, 9.0))
    )
