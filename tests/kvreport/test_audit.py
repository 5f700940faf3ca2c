"""`kvreport --audit`: what was published is believed if its records bear it out, and not else."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.simulated import FAST, kvsim
from tests.test_contamination import tool

from kvreport.audit.audit import Audit, audit
from kvreport.audit.bundle import read
from kvreport.targets import parse

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
