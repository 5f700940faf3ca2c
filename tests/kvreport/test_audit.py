"""`kvreport --audit`: what was published is believed if its records bear it out, and not else."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.simulated import FAST, kvsim
from tests.test_contamination import tool

from kvreport.audit.audit import Audit, audit
from kvreport.audit.bundle import read
from kvreport.targets import parse
from kvreport.words import Words

Records = list[dict[str, Any]]
Change = Callable[[Records], None]
NAME = "long_context_high_reuse"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """A whole experiment as somebody would publish it: plan, records, stats, report."""
    folder = tmp_path_factory.mktemp("published")
    paths = {name: folder / f"{name}.jsonl" for name in ("plan", "run", "stats")}
    shape = ("--requests", "9", "--contexts", "3", "--context-tokens", "200")
    with kvsim(*FAST) as sim:
        plan = ("--scenario", NAME, "--repeats", "2", "--output-tokens", "4", "--url", sim.url)
        paths["plan"].write_bytes(tool("kvplan", "-q", *plan, *shape))
        load = ("--workload", str(paths["plan"]), "--repeats", "2", "--pause", "0")
        paths["run"].write_bytes(tool("kvload", "-q", "--url", sim.url, *load, "--warmup", "0"))
    paths["stats"].write_bytes(tool("kvstats", str(paths["run"])))
    report = tool("kvreport", "--format", "json", str(paths["stats"]))
    records = [
        json.loads(line) for path in paths.values() for line in path.read_text().splitlines()
    ]
    return [*records, json.loads(report)]


def audited(records: Records, path: Path) -> Audit:
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return audit(read([str(path)]), parse([]), tool_version="test")


def disagreeing(found: Audit) -> set[str]:
    return {one.check for one in found.lines if one.state == "disagrees"}


def requests(records: Records, arm: str = "cold", stratum: str = "leader") -> Iterator[Any]:
    runs = {one["run_id"] for one in records if one["record"] == "run" and one["arm"] == arm}
    for one in records:
        if one["record"] == "request" and one["run_id"] in runs and one["stratum"] == stratum:
            yield one


def of(records: Records, kind: str) -> Any:
    return next(one for one in records if one["record"] == kind)


def test_what_is_in_order_agrees(published: Records, tmp_path: Path) -> None:
    found = audited(published, tmp_path / "all.jsonl")
    assert found.agrees, [one for one in found.lines if one.state == "disagrees"]
    assert {one.check for one in found.lines if one.state == "agrees"} >= {
        *("plan", "stream", "stamps", "usage", "cold", "sentinels", "counters", "stats"),
        *("verdict", "report"),
    }
    assert {one.name for one in found.derived} == {NAME}


def test_the_order_of_lines_and_files_does_not_matter(published: Records, tmp_path: Path) -> None:
    """One hash, however the records were put together, and if one file was given twice."""
    whole = audited(published, tmp_path / "all.jsonl")
    planned = [one for one in published if one["record"] in ("plan", "planned")]
    rest = [one for one in published if one["record"] not in ("plan", "planned")]
    random.Random(7).shuffle(rest)
    again = audited([*rest, *planned, *rest], tmp_path / "again.jsonl")
    assert again.agrees
    assert again.sha256 == whole.sha256


def set_usage(one: dict[str, Any], cached: int) -> None:
    one["cached_tokens"] = cached
    one["usage"]["prompt_tokens_details"]["cached_tokens"] = cached


def cached_in_one(records: Records) -> None:
    next(requests(records))["cached_tokens"] = 64


def cached_with_its_usage(records: Records) -> None:
    set_usage(next(requests(records)), 64)


def cached_hidden(records: Records) -> None:
    """A round that was not cold is made cold: the counters remember."""
    for one in records:
        if one["record"] == "server_metrics" and one["run_id"] == of(records, "run")["run_id"]:
            one["counters"]["computed_tokens"] -= 64


def request_removed(records: Records) -> None:
    records.remove(next(requests(records, "hit")))


def sentinel_removed(records: Records) -> None:
    records.remove(next(requests(records, "hit", "sentinel")))


def ttft_edited(records: Records) -> None:
    one = next(requests(records, "hit"))
    one["first_token_ns"] -= (one["first_token_ns"] - one["sent_ns"]) // 2


def ttft_edited_with_its_chunk(records: Records) -> None:
    """Consistent in itself: but the server had counted longer ones."""
    for one in requests(records, "hit"):
        set_ttft(one)
    for stratum in ("follower", "unique", "sentinel"):
        for one in requests(records, "hit", stratum):
            set_ttft(one)


def set_ttft(one: dict[str, Any]) -> None:
    one["first_token_ns"] = one["sent_ns"] + (one["first_token_ns"] - one["sent_ns"]) // 50
    one["chunk_ns"][0] = one["first_token_ns"]


def sent_later(records: Records) -> None:
    one = next(requests(records, "hit"))
    one["sent_ns"] = one["first_token_ns"] + 1


def stats_mean_edited(records: Records) -> None:
    of(records, "round_stats")["avg_ttft"] *= 0.9


def stats_row_edited(records: Records) -> None:
    found = of(records, "round_stats")["samples"]
    found["ttft_s"][0] *= 0.5


def stats_row_dropped(records: Records) -> None:
    samples = of(records, "round_stats")["samples"]
    for column in samples.values():
        if isinstance(column, list):
            column.pop()
    samples["total"] -= 1


def plan_text_edited(records: Records) -> None:
    of(records, "planned")["messages"][0]["content"] += " and so on"


def plan_of_another_round(records: Records) -> None:
    next(one for one in records if one["record"] == "run" and one["arm"] == "hit")[
        "plan_sha256"
    ] = "0" * 64


def new_tokens_edited(records: Records) -> None:
    next(requests(records))["new_tokens"] += 64


def report_ratio_edited(records: Records) -> None:
    of(records, "report")["scenarios"][0]["effects"]["ttft"]["ratio"] *= 0.5


def report_interval_edited(records: Records) -> None:
    of(records, "report")["scenarios"][0]["effects"]["ttft"]["thetas"][0] -= 0.2


def report_verdict_edited(records: Records) -> None:
    found = of(records, "report")["scenarios"][0]["effects"]["ttft"]["verdict"]
    found |= {"word": "slower", "by": []}


def stats_of_one_round_withheld(records: Records) -> None:
    records.remove(of(records, "round_stats"))


def end_removed(records: Records) -> None:
    records.remove(of(records, "end"))


TAMPERED: dict[Change, set[str]] = {
    cached_in_one: {"usage", "cold", "counters", "stats"},
    cached_with_its_usage: {"cold", "counters", "stats"},
    cached_hidden: {"counters"},
    request_removed: {"stream", "stats", "counters"},
    sentinel_removed: {"stream", "sentinels", "counters"},
    ttft_edited: {"stamps", "stats"},
    ttft_edited_with_its_chunk: {"stats", "counters"},
    sent_later: {"stamps", "stats"},
    stats_mean_edited: {"stats"},
    stats_row_edited: {"stats", "verdict"},
    stats_row_dropped: {"stats"},
    plan_text_edited: {"plan"},
    plan_of_another_round: {"verdict"},
    new_tokens_edited: {"plan"},
    report_ratio_edited: {"report"},
    report_interval_edited: {"report"},
    report_verdict_edited: {"report"},
    stats_of_one_round_withheld: {"stats"},
    end_removed: {"stream"},
}


@pytest.mark.parametrize("change", TAMPERED, ids=lambda one: one.__name__)
def test_what_was_tampered_with_is_noticed(
    change: Change, published: Records, tmp_path: Path
) -> None:
    """By each of the checks that can see it; and the hash is another one."""
    records = copy.deepcopy(published)
    change(records)
    found = audited(records, tmp_path / "tampered.jsonl")
    assert disagreeing(found) >= TAMPERED[change]
    assert not found.agrees
    assert found.sha256 != audited(published, tmp_path / "all.jsonl").sha256


def test_records_alone_are_enough_to_notice(published: Records, tmp_path: Path) -> None:
    """Nothing but run, request, server_metrics and end."""
    kinds = ("run", "request", "server_metrics", "end")
    records = copy.deepcopy([one for one in published if one["record"] in kinds])
    assert audited(records, tmp_path / "bare.jsonl").agrees
    cached_with_its_usage(records)
    found = audited(records, tmp_path / "tampered.jsonl")
    assert disagreeing(found) >= {"cold", "counters"}
    assert {one.verdict for one in found.derived} <= {"withheld", "none"}


def test_contamination_that_was_published_as_such_is_no_disagreement(
    published: Records, tmp_path: Path
) -> None:
    """Consistent records of a cold round that was not: stats made of them say so, and agree."""
    kinds = ("plan", "planned", "run", "request", "server_metrics", "end")
    records = copy.deepcopy([one for one in published if one["record"] in kinds])
    one = next(requests(records))
    set_usage(one, 64)
    for server in records:
        if server["record"] == "server_metrics" and server["run_id"] == one["run_id"]:
            server["counters"]["computed_tokens"] -= 64
    path = tmp_path / "run.jsonl"
    bare = [one for one in records if one["record"] not in ("plan", "planned")]
    path.write_text("".join(json.dumps(one) + "\n" for one in bare))
    stats = [json.loads(line) for line in tool("kvstats", str(path)).splitlines()]
    assert "contaminated" in {found["code"] for one in stats for found in one["findings"]}
    assert audited([*records, *stats], tmp_path / "all.jsonl").agrees
    proven = copy.deepcopy(stats)
    for two in proven:
        two["findings"] = [one for one in two["findings"] if one["code"] != "contaminated"]
        two["cold_proof"] = two["cold_proof"] and "proven"
    found = audited([*records, *proven], tmp_path / "all.jsonl")
    assert disagreeing(found) >= {"cold", "stats"}


def test_the_command(published: Records, tmp_path: Path, sh: Callable[..., Any]) -> None:
    lines = "".join(json.dumps(one) + "\n" for one in published)
    done = sh("kvreport --audit", stdin=lines)
    assert done.status == 0 and "agrees with its records" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    sha = audited(published, tmp_path / "all.jsonl").sha256
    assert sha in done.out
    done = sh("kvreport --audit --format json", stdin=lines)
    assert json.loads(done.out)["sha256"] == sha
    records = copy.deepcopy(published)
    ttft_edited(records)
    done = sh("kvreport --audit", stdin="".join(json.dumps(one) + "\n" for one in records))
    assert done.status == 1
    assert "DISAGREES" in done.out and "first_token_ns is not the stamp of its chunk" in " ".join(
        done.out.split()
    )


def test_a_round_alone_is_audited_too(published: Records, sh: Callable[..., Any]) -> None:
    """Nothing to compare, and nothing wrong with that."""
    run = of(published, "run")["run_id"]
    lines = [one for one in published if run in (one.get("run_id"),)]
    done = sh("kvreport --audit", stdin="".join(json.dumps(one) + "\n" for one in lines))
    assert done.status == 0
    assert "Nothing can be compared." in done.out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--audit -o out", "to stdout"),
        ("--audit --format csv", "to stdout"),
        ("--audit", "no `run`"),
    ],
)
def test_what_it_cannot_do(sh: Callable[..., Any], arguments: str, complaint: str) -> None:
    plan = Path(__file__).parents[2] / "schemas/examples/valid/plan.jsonl"
    done = sh(f"kvreport {arguments} {plan}")
    assert (done.status, done.out) == (2, "")
    assert complaint in done.err


# --- more than one stream a round, or more than one server ---------------------------------------


def sharded(records: Records) -> Records:
    """The same runs as two clients that ran together: every other request, and half of the end."""
    found: Records = []
    for one in records:
        kind = one["record"]
        if kind not in ("run", "request", "server_metrics", "end"):
            continue
        for number in (0, 1):
            copied = copy.deepcopy(one) | {"run_id": f"{one['run_id']}-{number}"}
            if kind == "run":
                copied["shard"] = f"{number}/2"
            elif kind == "end":
                own = [
                    two
                    for two in records
                    if two["record"] == "request"
                    and two["run_id"] == one["run_id"]
                    and two["index"] % 2 == number
                ]
                good = sum(two["status"] == "ok" for two in own)
                copied |= {"planned": len(own), "sent": len(own)}
                copied |= {"ok": good, "failed": len(own) - good}
            if kind != "request" or one["index"] % 2 == number:
                found.append(copied)
    return found


def summarised(records: Records, path: Path) -> Records:
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return [json.loads(line) for line in tool("kvstats", str(path)).splitlines()]


@pytest.fixture(scope="module")
def in_shards(published: Records, tmp_path_factory: pytest.TempPathFactory) -> Records:
    """Plan, the shards' records, and what kvstats makes of them."""
    records = sharded(published)
    stats = summarised(records, tmp_path_factory.mktemp("shards") / "run.jsonl")
    assert all(isinstance(one["run"], list) and one["complete"] for one in stats)
    plan = [one for one in published if one["record"] in ("plan", "planned")]
    return [*plan, *records, *stats]


def test_merged_shards_agree(in_shards: Records, published: Records, tmp_path: Path) -> None:
    found = audited(in_shards, tmp_path / "shards.jsonl")
    assert found.agrees, [str(one.said) for one in found.lines if one.state == "disagrees"]
    assert {one.check for one in found.lines if one.state == "agrees"} >= {
        *("plan", "stream", "stamps", "usage", "cold", "sentinels", "stats", "verdict"),
    }
    whole = audited(published, tmp_path / "whole.jsonl")
    assert [one.thetas for one in found.derived] == [one.thetas for one in whole.derived]


def shard_removed(records: Records) -> None:
    """All of one shard, as if there never had been another."""
    gone = of(records, "run")["run_id"]
    records[:] = [one for one in records if one.get("run_id") != gone]


@pytest.mark.parametrize(
    ("change", "checks"),
    [
        (cached_with_its_usage, {"cold", "stats"}),
        (request_removed, {"stream", "stats"}),
        (ttft_edited, {"stamps", "stats"}),
        (shard_removed, {"stats"}),
    ],
)
def test_what_was_tampered_with_in_a_shard_is_noticed(
    change: Change, checks: set[str], in_shards: Records, tmp_path: Path
) -> None:
    records = copy.deepcopy(in_shards)
    change(records)
    assert disagreeing(audited(records, tmp_path / "tampered.jsonl")) >= checks


@pytest.fixture(scope="module", params=["vllm", "lmcache"])
def disaggregated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Records:
    """A cold and a hit round through a proxy, with the metrics of both halves.

    In LMCache's flow the decoder reports what was sent to it as cached, sentinels too.
    """
    flow = ("--flow", request.param)
    with (
        kvsim("--role", "prefill", *flow, *FAST) as prefill,
        kvsim("--role", "decode", *flow, *FAST) as decode,
        kvsim(
            *("--role", "proxy", *flow, "--prefiller", prefill.url, "--decoder", decode.url)
        ) as proxy,
    ):
        shape = ("--requests", "9", "--contexts", "3", "--context-tokens", "200")
        servers = [
            flag
            for role, sim in (("prefill", prefill), ("decode", decode))
            for flag in ("--metrics-url", f"{role}={sim.url}")
        ]
        load = ("--scenario", NAME, "--output-tokens", "4", "--pause", "0", "--warmup", "0")
        done = tool("kvload", "-q", "--url", proxy.url, *load, *shape, *servers)
    records = [json.loads(line) for line in done.splitlines()]
    folder = tmp_path_factory.mktemp("pd")
    return [*records, *summarised(records, folder / "run.jsonl")]


def test_a_round_through_prefiller_and_decoder_agrees(
    disaggregated: Records, tmp_path: Path
) -> None:
    """Cold is proven by the prefiller's counters where cached tokens are transfers."""
    found = audited(disaggregated, tmp_path / "pd.jsonl")
    assert found.agrees, [str(one.said) for one in found.lines if one.state == "disagrees"]
    states = {one.check: one.state for one in found.lines}
    assert (states["cold"], states["counters"], states["stats"]) == ("agrees",) * 3
    bought = any(
        one["cached_tokens"]
        for one in disaggregated
        if one["record"] == "request" and one["stratum"] == "sentinel"
    )
    assert states["sentinels"] == ("unknown" if bought else "agrees")
    assert any("transfers" in str(one.said) for one in found.lines) == bought


def prefilled_less(records: Records) -> None:
    """By its own counters the prefiller computed less than a cold round must."""
    for one in records:
        if one["record"] == "server_metrics" and one["role"] == "prefill":
            one["counters"]["computed_tokens"] -= 500


def served_others(records: Records) -> None:
    for one in records:
        if one["record"] == "server_metrics" and one["role"] == "decode":
            one["counters"]["requests"] += 3


def transfers_hidden(records: Records) -> None:
    """Sentinels that report nothing from a cache: their own usage still does."""
    for one in records:
        if one["record"] == "request" and one["stratum"] == "sentinel":
            one["cached_tokens"] = 8


@pytest.mark.parametrize(
    ("change", "checks"),
    [
        (ttft_edited, {"stamps", "stats"}),
        (served_others, {"counters"}),
        (transfers_hidden, {"usage", "stats"}),
        (stats_row_edited, {"stats", "verdict"}),
    ],
)
def test_a_round_through_prefiller_and_decoder_that_was_edited(
    change: Change, checks: set[str], disaggregated: Records, tmp_path: Path
) -> None:
    records = copy.deepcopy(disaggregated)
    change(records)
    assert disagreeing(audited(records, tmp_path / "edited.jsonl")) >= checks


def test_a_prefiller_that_had_it_already_was_not_cold(
    disaggregated: Records, tmp_path: Path
) -> None:
    """Only where nothing else tells: cached tokens that are reuse come first."""
    records = copy.deepcopy(disaggregated)
    prefilled_less(records)
    found = audited(records, tmp_path / "edited.jsonl")
    transfers = any("transfers" in str(one.said) for one in found.lines)
    assert ("cold" in disagreeing(found)) == transfers


# --- records that stand beside the rounds --------------------------------------------------------

EXAMPLES = Path(__file__).parents[2] / "schemas/examples/valid"


def example(name: str) -> Any:
    return json.loads((EXAMPLES / f"{name}.json").read_text())


def lines_of(found: Audit, check: str) -> list[tuple[str, str]]:
    return [(one.state, one.said.phrase) for one in found.lines if one.check == check]


def test_a_search_is_derived_from_its_probes(published: Records, tmp_path: Path) -> None:
    search = example("capacity")
    found = audited([search], tmp_path / "alone.jsonl")
    assert lines_of(found, "capacity") == [("agrees", "audit_search_right")]
    assert [one.name for one in found.capacities] == [search["name"]]
    assert found.sha256 != audited(published, tmp_path / "all.jsonl").sha256


def rate_raised(search: Any) -> None:
    search["passed_rps"] = 16.0


def end_changed(search: Any) -> None:
    search["state"] = "above"


def probe_passed(search: Any) -> None:
    search["probes"][3] |= {"verdict": "passed", "reason": None}
    search |= {"passed_rps": 11.31, "failed_rps": 16.0}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (rate_raised, "audit_figure_of_probes"),
        (end_changed, "audit_search_state"),
        (probe_passed, "audit_probe"),
    ],
)
def test_a_search_that_was_edited(change: Any, said: str, tmp_path: Path) -> None:
    search = example("capacity")
    change(search)
    assert ("disagrees", said) in lines_of(audited([search], tmp_path / "a.jsonl"), "capacity")


def test_probes_are_counted_from_their_records(published: Records, tmp_path: Path) -> None:
    """Where these are there: a run of the probe's id, held against the limits anew."""
    records = [copy.deepcopy(one) for one in published if one["record"] in ("run", "request")]
    run = of(records, "run")["run_id"]
    search = example("capacity")
    search |= {"slo": {"ttft": 60.0}, "probes": [search["probes"][0]], "state": "above"}
    search |= {"passed_rps": 4.0, "failed_rps": None, "to_rps": 4.0}
    search["probes"][0] |= {"run_id": run, "requests": 9, "good_requests": 9}
    found = audited([*records, search], tmp_path / "a.jsonl")
    assert lines_of(found, "capacity") == [("agrees", "audit_search_right")]
    search["slo"]["ttft"] = 1e-6
    found = audited([*records, search], tmp_path / "b.jsonl")
    assert ("disagrees", "audit_probe_counts") in lines_of(found, "capacity")


def test_a_report_of_searches_is_held_against_them(sh: Callable[..., Any], tmp_path: Path) -> None:
    bare, hit = example("capacity"), example("capacity")
    bare["arm"] = "no_reuse"
    rates = {"passed_rps": 4.0, "failed_rps": 4.6}
    bare |= rates | {"probes": copy.deepcopy(bare["probes"])}
    for probe, rate in zip(bare["probes"], (2.0, 3.0, 5.0, 4.6, 4.0), strict=True):
        probe["rate_rps"] = rate
    searches = [
        one | {"repeat": repeat} for repeat in (1, 2, 3) for one in map(copy.deepcopy, (bare, hit))
    ]
    text = "".join(json.dumps(one) + "\n" for one in searches)
    report = json.loads(sh("kvreport --format json", stdin=text).out)
    found = audited([*searches, report], tmp_path / "a.jsonl")
    assert found.agrees, [str(one.said) for one in found.lines if one.state == "disagrees"]
    assert found.capacities[0].verdict == "higher"
    report["capacities"][0]["ratio"] *= 1.5
    found = audited([*searches, report], tmp_path / "b.jsonl")
    assert ("disagrees", "audit_capacity") in lines_of(found, "report")


def test_outcomes_do_not_contradict_themselves_nor_are_hidden(
    published: Records, tmp_path: Path
) -> None:
    outcome = example("outcome") | {"name": NAME, "repeats": 2, "done": 2, "failed_repeats": []}
    outcome |= {"state": "succeeded", "tainted": []}
    found = audited([*published, outcome], tmp_path / "a.jsonl")
    assert lines_of(found, "outcome") == [("agrees", "audit_outcome_right")]
    less = outcome | {"repeats": 3}
    found = audited([*published, less], tmp_path / "b.jsonl")
    assert lines_of(found, "outcome") == [("disagrees", "audit_outcome_less")]
    failed = outcome | {"name": "another", "state": "failed", "done": 0}
    found = audited([*published, failed], tmp_path / "c.jsonl")
    assert lines_of(found, "outcome") == [("disagrees", "audit_outcome_hidden")]


def test_a_calibration_is_that_of_its_client(published: Records, tmp_path: Path) -> None:
    calibration = example("calibration")
    found = audited([*published, calibration], tmp_path / "a.jsonl")
    assert lines_of(found, "calibration") == [("unknown", "audit_calibration_unused")]
    records = copy.deepcopy(published)
    run = of(records, "run")
    calibration |= {"host": run["host"], "made_at": run["started_at"]}
    run["calibration"] = calibration
    found = audited([*records, calibration], tmp_path / "b.jsonl")
    assert lines_of(found, "calibration") == [("agrees", "audit_calibration_right")]
    found = audited([*records, example("calibration")], tmp_path / "c.jsonl")
    assert lines_of(found, "calibration") == [("disagrees", "audit_calibration_other")]
    run["calibration"] = example("calibration")
    found = audited(records, tmp_path / "d.jsonl")
    assert lines_of(found, "calibration") == [("disagrees", "audit_calibration_hidden")]


def test_what_is_passed_over_is_said(published: Records, tmp_path: Path) -> None:
    found = audited([*published, example("cleared")], tmp_path / "a.jsonl")
    assert lines_of(found, "others") == [("unknown", "audit_passed_over")]
    assert found.agrees


# --- in another language -------------------------------------------------------------------------


def test_a_page_in_chinese_has_no_english_sentence(
    published: Records, tmp_path: Path, sh: Callable[..., Any]
) -> None:
    """Names of fields, tokens and products apart; and a disagreement is as loud."""
    records = copy.deepcopy(published)
    ttft_edited(records)
    extra = [example("capacity"), example("outcome"), example("calibration"), example("cleared")]
    text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in [*records, *extra])
    done = sh("kvreport --audit --lang zh", stdin=text)
    assert done.status == 1 and done.out.startswith("审计：已发布的内容与其记录不一致")
    assert not re.search(r"[a-z]+ [a-z]+ [a-z]+", done.out.replace(NAME, ""))
    for language, shown in (("zh", done), ("en", sh("kvreport --audit", stdin=text))):
        screen = "\n".join(shown.out.splitlines()[:24])
        labels = ("compared", "one_hit", "target", "how_sure", "doubts")
        assert all(f"  {Words(language).say(name)}" in screen for name in labels)
    assert shown.out.split("sha256")[1].split()[0] == done.out.split("sha256")[1].split()[0]


def test_json_has_a_code_for_each_sentence(published: Records, sh: Callable[..., Any]) -> None:
    text = "".join(json.dumps(one) + "\n" for one in published)
    found = [
        sh(f"kvreport --audit --format json --lang {lang}", stdin=text) for lang in ("en", "zh")
    ]
    assert found[0].out == found[1].out
    for one in json.loads(found[0].out)["lines"]:
        assert Words("en").phrases[f"audit_{one['code']}"] and one["said"] and one["where"]
