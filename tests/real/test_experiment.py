"""The project's tools run their experiment on real vLLM nodes around a real Mooncake store.

What they report is held against what must be so: a full hit is every whole block but the last
token's (`whole_blocks`), and nodes count what was sent. Counts and one generous ratio, no times.
"""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from bench.histogram import changes, means
from tests.conftest import Done as Ended
from tests.family import environment
from tests.real.engine import BLOCK_TOKENS, Stack, random_prompt, until, whole_blocks
from tests.real.pipeline import Done, Record, Round, lines, measure, median_ttft

REUSE = "--scenario long_context_high_reuse --requests 10 --contexts 4 --sentinels 1"
PLAN = f"{REUSE} --output-tokens 4"
LONG = f"{PLAN} --context-tokens 1200 --pause 0 --warmup 1"
SHORT = f"{PLAN} --context-tokens 700 --pause 0 --warmup 0"
CROWD = f"{REUSE} --output-tokens 8 --context-tokens 700 --concurrency 4 --pause 0 --warmup 0"

# What would make these figures worthless. A busy machine may well cause others.
RUINOUS = {
    *("contaminated", "cold_not_shown", "lost", "tier_not_shown", "pd_transfer", "salt_ignored"),
    *("foreign_traffic", "restarted", "errors", "incomplete", "cached_tokens_not_reported"),
    *("barrier_unknown", "not_isolated", "uncalibrated", "simulated"),
}


def sound(one: Round) -> bool:
    """Nothing was found that touches what was counted."""
    assert not RUINOUS & set(one.findings()), one.stats["findings"]
    assert one.stats["complete"] is True
    return True


def assert_cold(one: Round) -> None:
    """Leaders and uniques found nothing, and kvstats takes that for proof."""
    assert [request["cached_tokens"] for request in one.leading] == [0] * len(one.leading)
    assert one.stats["cold_proof"] == "proven"
    assert one.stats["conservation"]["shortfall_tokens"] == 0
    assert sound(one)


def assert_full_hit(one: Round) -> None:
    """Every prompt found all that a cache can give, and a nonce found nothing."""
    for request in one.own:
        assert request["cached_tokens"] == whole_blocks(request["prompt_tokens"])
        assert request["cached_tokens"] == request["ideal_prior_tokens"]
    assert [request["cached_tokens"] for request in one.of("sentinel")] == [0]
    assert one.stats["efficiency"] == 1
    assert one.stats["cold_proof"] is None
    assert sound(one)


def counted_whole(one: Round) -> bool:
    """Whether the counters were read after the node had counted the last request.

    It does so a moment behind the answer: a quiet barrier shows it, or that request's own tokens.
    """
    last = max(one.requests, key=lambda request: request["end_ns"])
    return one.end["barrier"]["state"] == "quiet" or last["cached_local_tokens"] is not None


def assert_counted(one: Round) -> None:
    """The node's counters, our sums and the sums by source are the same numbers."""
    if not counted_whole(one):
        assert one.counted("requests") <= len(one.requests)
        return
    assert one.counted("requests") == len(one.requests)
    assert one.counted("prompt_tokens") == one.total("prompt_tokens")
    assert one.counted("generation_tokens") == one.total("output_tokens")
    cached = one.counted("local_tokens") + one.counted("external_tokens")
    assert cached == one.total("cached_tokens")
    assert one.counted("computed_tokens") == one.total("prompt_tokens") - cached
    assert one.stats["served"] == {
        "computed": one.counted("computed_tokens"),
        "local": one.counted("local_tokens"),
        "external": one.counted("external_tokens"),
    }


def assert_served(requests: list[Record], *, remotely: bool) -> None:
    """Where each hit came from: told for most, since a busy node may count a moment late."""
    told = [request for request in requests if request["cached_remote_tokens"] is not None]
    assert 2 * len(told) > len(requests)
    for request in told:
        cached = request["cached_tokens"]
        sources = (request["cached_local_tokens"], request["cached_remote_tokens"])
        assert sources == ((0, cached) if remotely else (cached, 0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("experiment")


# Tier local: what the engine's own prefix cache gives.


@pytest.fixture(scope="module")
def local(real_stack: Stack, folder: Path) -> Done:
    real_stack.empty()
    return measure(folder, f"kvload --url {real_stack.node_a} {LONG}", name="local")


def test_the_first_round_is_cold(local: Done) -> None:
    cold = local.round_of("cold")
    assert_cold(cold)
    for request in cold.of("follower"):
        found = request["cached_tokens"]
        assert request["ideal_in_round_lo"] <= found <= request["ideal_in_round_hi"]
        assert 0 < found < request["prompt_tokens"]
    assert cold.stats["tier_served"] == "local", "followers find what their leaders left"
    assert cold.end["barrier"]["state"] == "quiet"


def test_the_second_round_hits_all_that_it_can(local: Done) -> None:
    hit = local.round_of("hit")
    assert_full_hit(hit)
    assert hit.stats["tier_served"] == "local"
    assert hit.stats["served"]["external"] == 0


def test_every_hit_is_the_nodes_own(local: Done) -> None:
    for one in local.rounds:
        assert_counted(one)
        assert_served(one.own, remotely=False)


def test_the_head_says_what_it_ran_on(local: Done, real_stack: Stack) -> None:
    for one in local.rounds:
        head = one.run
        assert (head["engine"], head["model"]) == ("vllm", real_stack.model)
        assert head["engine_version"] and head["simulated"] is False
        assert (head["calibrated"], head["block_tokens"]) == ("tokenize", BLOCK_TOKENS)
        assert (head["salt_way"], head["endpoint_url"]) == ("cache_salt", real_stack.node_a)
    assert len({one.run["salt"] for one in local.rounds}) == 1
    assert "SIMULATED" not in local.err


def test_prompts_are_as_long_as_planned(local: Done) -> None:
    """Not near it: /tokenize is the server's own count, template included."""
    for one in local.rounds:
        assert {request["prompt_tokens"] for request in one.own} == {1200 + 64}
        assert {request["output_tokens"] for request in one.requests} == {4}


def test_avg_ttft_is_the_mean_in_seconds(local: Done) -> None:
    for one in local.rounds:
        each = [(one_["first_token_ns"] - one_["sent_ns"]) / 1e9 for one_ in one.own]
        assert one.stats["avg_ttft"] == pytest.approx(sum(each) / len(each))


def test_client_and_server_see_the_same_difference(local: Done, folder: Path) -> None:
    """Less than 5 % on a quiet machine (bench/README.md); here it may be busy, as any may be."""
    found = [*changes(means(folder / "local.jsonl"))]
    assert len(found) == 1 or not all(map(counted_whole, local.rounds))
    for change in found:
        assert change.effect_s > 0
        assert change.share < 0.2


# Tier store: one node, its own cache reset between the rounds.


@pytest.fixture(scope="module")
def stored(real_stack: Stack, folder: Path) -> Done:
    real_stack.empty()
    urls = f"--url {real_stack.node_a} --metrics-url store={real_stack.mooncake}"
    return measure(folder, f"kvload {urls} {LONG} --tier store", name="store")


def test_the_node_forgot_and_the_store_did_not(stored: Done) -> None:
    cold, hit = stored.rounds
    assert_cold(cold)
    assert cold.end["barrier"]["state"] == "quiet"
    assert "store_keys" in cold.end["barrier"]["reason"]
    assert cold.end["reset"]["ok"] is True and len(cold.end["reset"]["answers"]) == 1
    assert hit.end["reset"] is None
    assert_full_hit(hit)


def test_first_uses_come_from_the_store_and_followers_from_the_node(stored: Done) -> None:
    hit = stored.round_of("hit")
    assert all(request["cached_tokens"] > 0 for request in hit.leading)
    assert_served(hit.leading, remotely=True)
    assert_served(hit.of("follower"), remotely=False)
    assert hit.stats["tier_served"] == "store"
    assert hit.counted("external_tokens") == sum(one["cached_tokens"] for one in hit.leading)
    assert_counted(hit)


def test_the_store_was_watched(stored: Done) -> None:
    cold, hit = stored.rounds
    keys = cold.servers["store"]["counters"]["store_puts"]
    assert keys == cold.counted("save_keys") > 0
    assert hit.counted("load_keys") * BLOCK_TOKENS == hit.counted("external_tokens")


# Tier remote: node A stores, node B loads, and node B without reuse is the baseline.


@pytest.fixture(scope="module")
def crossed(real_stack: Stack, folder: Path) -> Done:
    real_stack.empty()
    urls = f"--url 1={real_stack.node_a} --url 2={real_stack.node_b}"
    watch = f"--metrics-url store={real_stack.mooncake}"
    return measure(folder, f"kvload {urls} {watch} {LONG}", name="cross")


def test_three_rounds_on_their_nodes(crossed: Done, real_stack: Stack) -> None:
    a, b = real_stack.node_a, real_stack.node_b
    order = [
        (one.run["arm"], one.run["round_num"], one.run["endpoint_url"]) for one in crossed.rounds
    ]
    assert order == [("no_reuse", 0, b), ("cold", 1, a), ("hit", 2, b)]
    assert {one.run["tier"] for one in crossed.rounds} == {"remote"}
    assert len({one.run["plan_sha256"] for one in crossed.rounds}) == 1
    assert all(one.end["barrier"]["state"] == "quiet" for one in crossed.rounds[:2])


def test_the_control_computes_every_prompt(crossed: Done) -> None:
    control = crossed.round_of("no_reuse")
    assert control.total("cached_tokens") == 0
    assert control.counted("computed_tokens") == control.total("prompt_tokens")
    assert control.stats["tier_served"] == "computed"
    assert_cold(control)


def test_what_a_computed_b_loads(crossed: Done) -> None:
    cold, hit = crossed.round_of("cold"), crossed.round_of("hit")
    assert_cold(cold)
    assert_full_hit(hit)
    assert_served(hit.leading, remotely=True)
    assert_served(hit.of("follower"), remotely=False)
    assert hit.stats["tier_served"] == "remote"
    for one in crossed.rounds:
        assert_counted(one)


def test_a_loaded_prefix_saves_most_of_the_first_tokens_time(crossed: Done) -> None:
    control, hit = crossed.round_of("no_reuse"), crossed.round_of("hit")
    assert median_ttft(control.leading) > 2 * median_ttft(hit.leading)


def test_the_report_has_both_nodes_and_the_tick(crossed: Done, real_stack: Stack) -> None:
    report = kvreport(crossed)
    assert "🌐" in report
    assert real_stack.node_a in report and real_stack.node_b in report
    transfer = [line for line in report.splitlines() if "KV Cache transfer" in line]
    assert transfer and all("✅" in line for line in transfer)
    assert "SIMULATED" not in report


# One plan, sent again and again: only a clear or a salt makes it cold.


@dataclass(frozen=True, kw_only=True)
class Again:
    """Rounds of one plan without a salt, each by a kvload of its own."""

    folder: Path
    load: str

    def __call__(self, name: str, flags: str) -> Round:
        [one] = measure(self.folder, f"{self.load} --salt none {flags}", name=name).rounds
        return one


@pytest.fixture(scope="module")
def again(real_stack: Stack, folder: Path) -> Again:
    real_stack.empty()
    load = f"kvload --url {real_stack.node_a} {SHORT} --seed 7 --experiment again"
    return Again(folder=folder, load=load)


@pytest.fixture(scope="module")
def first(again: Again) -> Round:
    return again("first", "--round 1")


@pytest.fixture(scope="module")
def second(again: Again, first: Round) -> Round:
    return again("second", "--round 1")


@pytest.fixture(scope="module")
def hit(again: Again, second: Round) -> Round:
    return again("hit", "--round 2")


@pytest.fixture(scope="module")
def cleared(hit: Round, real_stack: Stack, folder: Path) -> Record:
    flags = f"--vllm {real_stack.node_a} --vllm {real_stack.node_b}"
    path = folder / "cleared.jsonl"
    done = shell(f"kvclear {flags} --mooncake {real_stack.mooncake} > {path}")
    assert done.status == 0, done.err
    [record] = lines(path)
    return record


def test_on_an_empty_stack_it_is_cold(first: Round) -> None:
    assert_cold(first)
    assert first.run["salt"] is None and first.run["isolation"] is None


def test_the_same_round_again_is_found_out(second: Round) -> None:
    stats = second.stats
    assert second.findings()["contaminated"] == "invalid"
    assert stats["cold_proof"] == "contaminated"
    # Every leader's and unique's whole hit, to the token: nothing else was in the cache.
    found = sum(whole_blocks(one["prompt_tokens"]) for one in second.leading)
    assert sum(one["cached_tokens"] for one in second.leading) == found
    [finding] = [one for one in stats["findings"] if one["code"] == "contaminated"]
    assert len(finding["evidence"]["requests"]) == len(second.leading)
    assert 0 < stats["conservation"]["shortfall_tokens"] <= found
    assert "not_isolated" in second.findings()


def test_two_commands_make_one_experiment(first: Round, hit: Round, folder: Path) -> None:
    assert_full_hit(hit)
    done = shell(f"kvreport {folder}/first.stats.jsonl {folder}/hit.stats.jsonl")
    assert done.status == 0, done.err
    assert "CONTAMINATED" not in done.out and "SIMULATED" not in done.out


def test_a_contaminated_baseline_gets_no_verdict(second: Round, hit: Round, folder: Path) -> None:
    """However small the target: what was measured is another thing."""
    files = f"{folder}/second.stats.jsonl {folder}/hit.stats.jsonl"
    done = shell(f"kvreport --target ttft_reduction=0.001 {files}")
    assert done.status == 1
    assert "is invalid" in done.err and "CONTAMINATED" in done.err
    told = " ".join(done.out.split())  # lines are broken anywhere
    assert "verdict withheld" in told and "faster in this run" not in told


def test_cleared_it_is_cold_again(cleared: Record, again: Again) -> None:
    assert cleared["verified"] is True, cleared["reason"]
    one = again("after-clear", "--round 1 --isolation cleared.jsonl")
    assert_cold(one)
    assert one.run["isolation"] == cleared == one.stats["run"]["isolation"]


def test_a_salt_needs_no_clearing(second: Round, real_stack: Stack, folder: Path) -> None:
    """The plan that was just found in the cache, in a namespace of its own."""
    load = f"kvload --url {real_stack.node_a} {SHORT} --seed 7 --salt auto"
    salted = measure(folder, load, name="salted")
    assert salted.round_of("cold").run["plan_sha256"] == second.run["plan_sha256"]
    assert_cold(salted.round_of("cold"))
    assert_full_hit(salted.round_of("hit"))


# Four requests in flight: racing followers are no contamination, a stranger is no guess.


@pytest.fixture(scope="module", params=["leaders-first", "shuffled"])
def crowded(request: pytest.FixtureRequest, real_stack: Stack, folder: Path) -> Done:
    real_stack.empty()
    load = f"kvload --url {real_stack.node_a} {CROWD} --order {request.param}"
    return measure(folder, load, name=request.param)


def test_no_false_alarm(crowded: Done) -> None:
    cold, hit = crowded.rounds
    assert cold.run["arrival"]["kind"] == "closed"
    assert max(in_flight(cold)) > 1
    assert_cold(cold)
    assert_full_hit(hit)


def test_the_node_counted_ours_and_nothing_else(crowded: Done) -> None:
    for one in crowded.rounds:
        assert_counted(one)
        assert not one.servers["node"]["fell"]


def test_a_stranger_is_found_out(real_stack: Stack, folder: Path) -> None:
    real_stack.empty()
    path = folder / "stranger.jsonl"
    with subprocess.Popen(
        ["bash", "-c", f"kvload --url {real_stack.node_a} {CROWD} --rounds 1"],
        stdout=subprocess.PIPE,
        env=environment(),
        encoding="utf-8",
    ) as load:
        assert load.stdout is not None
        written = []
        for line in load.stdout:
            written.append(line)
            if len(written) == 2:  # the head and the first of eleven requests
                assert json.loads(line)["record"] == "request"
                real_stack.a.complete(random_prompt("a stranger's", 300))
    path.write_text("".join(written))
    assert load.returncode == 0
    stats = shell(f"kvstats {path}")
    assert stats.status == 0, stats.err
    found = {one["code"]: one for one in json.loads(stats.out)["findings"]}
    stranger = found["foreign_traffic"]
    assert stranger["severity"] == "invalid"
    assert stranger["evidence"]["servers"] == [real_stack.node_a]
    assert stranger["evidence"]["what"] == "request"
    assert stranger["evidence"]["counted"] == stranger["evidence"]["at_most"] + 1
    assert "contaminated" not in found


def test_a_round_cut_short_blames_nobody(real_stack: Stack, folder: Path) -> None:
    """vLLM counts what was given up only in part: no stranger's, and no proof of anything."""
    real_stack.empty()
    path = folder / "short.jsonl"
    long_answers = CROWD.replace("--output-tokens 8", "--output-tokens 800")
    with (
        path.open("w") as out,
        subprocess.Popen(
            ["kvload", "--url", real_stack.node_a, *long_answers.split()],
            stdout=out,
            env=environment(),
        ) as load,
    ):
        until(lambda: '"run"' in path.read_text() and real_stack.a.busy(), "request under way")
        load.send_signal(signal.SIGINT)
    assert load.returncode == -signal.SIGINT
    end = lines(path)[-1]
    assert (end["record"], end["complete"], end["reason"]) == ("end", False, "SIGINT")
    stats = shell(f"kvstats {path}")
    assert stats.status == 1
    found = {one["code"]: one["severity"] for one in json.loads(stats.out)["findings"]}
    assert found["incomplete"] == "invalid"
    assert not {"foreign_traffic", "contaminated"} & set(found)
    until(lambda: not real_stack.a.busy(), "node that gave up too")


def test_token_ids_through_completions(real_stack: Stack, folder: Path) -> None:
    """kvplan's ids, piped into kvload: no template, so that nothing at all is shared."""
    real_stack.empty()
    plan = f"kvplan {PLAN} --context-tokens 700 --api completions --token-ids 300-4095"
    load = f"kvload --url {real_stack.node_a} --api completions --workload - --pause 0 --warmup 0"
    done = measure(folder, f"{plan} | {load}", name="ids")
    assert len(done.statuses) == 4
    cold, hit = done.rounds
    assert (cold.run["api"], cold.run["calibrated"]) == ("completions", "token_ids")
    assert {one["floor_tokens"] for one in cold.requests} == {0}
    assert {one["prompt_tokens"] for one in cold.own} == {700 + 64}
    assert_cold(cold)
    assert_full_hit(hit)


def test_each_turn_of_a_conversation_finds_the_turns_before_it(
    real_stack: Stack, folder: Path
) -> None:
    """Chains are made over the server's own template: to the token, or the ideal is not met."""
    real_stack.empty()
    shape = "--scenario multi_turn_conversation --requests 10 --contexts 2 --context-tokens 900"
    few = "--output-tokens 4 --sentinels 1 --pause 0 --warmup 0"
    load = f"kvload --url {real_stack.node_a} {shape} {few}"
    done = measure(folder, load, name="turns")
    cold, hit = done.rounds
    assert_cold(cold)
    followers = cold.of("follower")
    assert {one["turn"] for one in followers} == {2, 3, 4, 5}
    for one in followers:
        assert one["cached_tokens"] == one["ideal_in_round_lo"] == one["ideal_in_round_hi"] > 0
    assert_full_hit(hit)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--url {a} --scenario cold_start --context-tokens 17000", "takes 16384"),
        ("--url {a} --scenario cold_start --model nope", "'nope' is not served"),
        ("--url http://127.0.0.1:9 --scenario cold_start", "connection refused"),
        ("--url {store} --scenario cold_start", "no OpenAI-compatible endpoint"),
        ("--url {a} --scenario cold_start --metrics-url store={a}/no", "no metrics there"),
    ],
)
def test_what_cannot_run_is_one_line_and_exit_2(real_stack: Stack, flags: str, words: str) -> None:
    given = flags.format(a=real_stack.node_a, store=real_stack.mooncake)
    done = shell(f"kvload -q {given} --requests 2 --output-tokens 1 --sentinels 1")
    assert (done.status, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1 and done.err.startswith("kvload: ")
    assert words in done.err


def shell(command: str) -> Ended:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(),
        check=False,
    )
    return Ended(status=done.returncode, out=done.stdout, err=done.stderr)


def kvreport(done: Done) -> str:
    """The text report of these rounds."""
    ended = shell(f"kvreport {done.stats_path}")
    assert ended.status == 0, ended.err
    return ended.out


def in_flight(one: Round) -> list[int]:
    """How many of the round's requests were under way when each was sent."""
    spans = [(request["sent_ns"], request["end_ns"]) for request in one.requests]
    return [sum(begin <= sent < end for begin, end in spans) for sent, _ in spans]
