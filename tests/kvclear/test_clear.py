"""kvclear through its executable: what it says about each arrangement, and its status."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.kvclear.runs import FOREIGN_KEY, Run, kvclear

from kvschemas import first_problem

ResultOf = Callable[[str], Run]


def test_a_healthy_pair_with_a_store_is_shown_empty(result_of: ResultOf) -> None:
    run = result_of("healthy pair")
    assert (run.status, run.verified) == (0, True), run.err
    assert first_problem("cleared", run.record) is None
    assert run.record is not None and run.record["simulated"] is True
    assert "cleared (SIMULATED): " in run.err
    [store] = run.proofs("store")
    assert store["keys_before"] > 0 == store["keys_after"]
    engines = run.proofs("engine")
    assert sorted(proof["where"] for proof in engines) == sorted([*run.seen["urls"]] * 2)
    assert all(proof["after_tokens"] == 0 for proof in engines)
    assert all(proof["control_tokens"] >= 2 * 16 for proof in engines)


def test_one_canary_one_probe_and_each_goes_to_one_node(result_of: ResultOf) -> None:
    """Two looks: four sends before, two after, on each node; node A also served one of ours."""
    assert result_of("healthy pair").seen["requests"] == (1 + 6, 6)


def test_every_node_is_reset_before_the_store_and_after_a_rest(result_of: ResultOf) -> None:
    record = result_of("healthy pair").record
    assert record is not None
    assert [step["what"] for step in record["steps"]] == [
        *("come to rest", "plant canaries", "plant canaries", "come to rest"),
        *("reset prefix cache", "reset mm cache", "reset encoder cache") * 2,
        "remove every object",
    ]
    assert [proof["tier"] for proof in record["proofs"]] == ["store", *["engine"] * 4]


@pytest.mark.parametrize("name", ["reset lies", "persistent"])
def test_a_reset_that_only_says_success_is_caught(result_of: ResultOf, name: str) -> None:
    run = result_of(name)
    [reset] = run.steps("reset prefix cache")
    assert reset["ok"] is True and '"success":true' in reset["answer"].replace(" ", "")
    assert (run.status, run.verified) == (1, False)
    assert all(proof["after_tokens"] >= 2 * 16 for proof in run.proofs("engine"))
    assert "still hit" in run.err


def test_a_store_that_only_says_success_is_caught_by_its_keys(result_of: ResultOf) -> None:
    run = result_of("store ignores")
    assert (run.status, run.verified) == (1, False)
    [store] = run.proofs("store")
    assert store["verified"] is False
    assert store["keys_after"] == store["keys_before"] > 0
    assert all(proof["verified"] is False for proof in run.proofs("engine")), "it serves them too"


def test_a_store_cannot_hide_a_node_that_kept_its_blocks(result_of: ResultOf) -> None:
    run = result_of("lying node beside a store")
    assert (run.status, run.verified) == (1, False)
    verdicts = {proof["where"]: proof["verified"] for proof in run.proofs("engine")}
    assert sorted(verdicts.values()) == [False, True], "and the honest node is not accused"


def test_a_local_reset_with_a_store_behind_it_is_not_cold(result_of: ResultOf) -> None:
    run = result_of("store left out")
    assert (run.status, run.verified) == (1, False)
    assert "0 from its own cache" in run.reason and "--mooncake" in run.reason


def test_a_store_behind_a_node_is_not_cleared_through_it_unasked(result_of: ResultOf) -> None:
    [step] = result_of("store left out").steps("reset external cache")
    assert step["ok"] is None and step["answer"].startswith("MooncakeStoreConnector: not sent")
    assert "--global" in step["answer"]


def test_a_store_cleared_through_its_nodes_is_judged_by_the_probes(result_of: ResultOf) -> None:
    run = result_of("through the nodes")
    assert (run.status, run.verified) == (0, True), run.err
    assert all(step["ok"] is None for step in run.steps("reset external cache"))
    what = [step["what"] for step in run.record["steps"]] if run.record else []
    last_node = max(at for at, step in enumerate(what) if step == "reset prefix cache")
    assert last_node < what.index("reset external cache")
    ignored = result_of("through the nodes, ignored")
    assert (ignored.status, ignored.verified) == (1, False)
    assert len(ignored.seen["left"]) > 0
    assert all("true" in step["answer"] for step in ignored.steps("reset external cache"))


def test_local_only_leaves_the_store_and_says_what_it_looked_at(result_of: ResultOf) -> None:
    run = result_of("local only")
    assert (run.status, run.verified) == (0, True), run.err
    assert run.seen["keys"] > 0
    assert not run.steps("remove every object") and not run.proofs("store")
    assert all(proof["after_tokens"] > 0 for proof in run.proofs("engine")), "out of the store"
    assert "from its own cache" in run.proofs("engine")[0]["reason"]


def test_other_peoples_keys_are_not_removed_unless_told(result_of: ResultOf) -> None:
    run = result_of("foreign keys")
    refused: Run = run.seen["refused"]
    assert (refused.status, refused.verified) == (1, False)
    assert FOREIGN_KEY in run.seen["kept"] and len(run.seen["kept"]) > 1
    proof = refused.proofs("store")[0]
    assert (proof["how"], proof["keys_before"]) == ("our keys", len(run.seen["kept"]) - 1)
    [step] = refused.steps("remove every object")
    assert step["ok"] is False
    assert FOREIGN_KEY in step["answer"] and "--global" in step["answer"]
    assert (run.status, run.verified) == (0, True), run.err
    assert FOREIGN_KEY not in run.seen["left"]
    assert run.proofs("store")[0]["how"] == "key count"


def test_a_store_without_nodes_is_nobodys(result_of: ResultOf) -> None:
    run = result_of("store alone")
    refused: Run = run.seen["refused"]
    assert run.seen["kept"] == [FOREIGN_KEY] and refused.verified is None
    assert "no node and no --model is named" in refused.err
    assert run.seen["left"] == []
    assert (run.status, run.verified) == (1, None), "nothing was planted, so nothing is shown"


def test_without_new_keys_the_store_shows_nothing(result_of: ResultOf) -> None:
    run = result_of("never saved")
    assert (run.status, run.verified) == (1, None)
    assert run.proofs("store")[0]["verified"] is None
    assert all(proof["verified"] for proof in run.proofs("engine"))
    assert "do not save to this store" in run.reason


def test_busy_is_tried_again(result_of: ResultOf) -> None:
    run = result_of("busy")
    assert (run.status, run.verified) == (0, True), run.err
    [reset] = run.steps("reset prefix cache")
    assert reset["ok"] is True and "after 2 retries" in reset["answer"]


def test_an_empty_200_is_no_evidence_but_a_probe_is(result_of: ResultOf) -> None:
    run = result_of("old version")
    [reset] = run.steps("reset prefix cache")
    assert reset["ok"] is None and "empty 200" in reset["advice"]
    assert (run.status, run.verified) == (0, True), run.err
    assert [proof["after_tokens"] for proof in run.proofs("engine")] == [0, 0], "null was a true 0"


def test_unreported_cached_tokens_are_null_and_say_what_to_do(result_of: ResultOf) -> None:
    run = result_of("null details")
    assert (run.status, run.verified) == (1, None)
    assert "cached tokens are not reported" in run.reason
    assert "--enable-prompt-tokens-details" in run.err
    assert run.steps("reset prefix cache")[0]["ok"] is True, "it is cleared all the same"


def test_a_decoder_proves_nothing(result_of: ResultOf) -> None:
    run = result_of("decoder")
    assert (run.status, run.verified) == (1, None)
    assert "never sent" in run.reason and "prefiller" in run.reason


def test_no_reset_route_names_the_way_out(result_of: ResultOf) -> None:
    run = result_of("no dev mode")
    assert (run.status, run.verified) == (1, False)
    [reset] = run.steps("reset prefix cache")
    assert reset["ok"] is False and reset["answer"].startswith("404")
    assert "VLLM_SERVER_DEV_MODE=1" in run.err


def test_canaries_grow_until_a_control_shows(result_of: ResultOf) -> None:
    run = result_of("large blocks")
    assert (run.status, run.verified) == (0, True), run.err
    assert all(proof["control_tokens"] >= 2 * 1024 for proof in run.proofs("engine"))


def test_a_key_is_needed_and_never_shown(result_of: ResultOf) -> None:
    run = result_of("behind a key")
    without: Run = run.seen["without"]
    assert (without.status, without.record) == (2, None)
    assert "needs a key: --api-key-file" in without.err
    assert (run.status, run.verified) == (0, True), run.err
    assert "s3cret" not in json.dumps(run.record) + run.err


def test_a_restart_by_command_is_seen_and_counts(result_of: ResultOf) -> None:
    run = result_of("restarted by command")
    assert (run.status, run.verified) == (0, True), run.err
    assert run.steps("run command")[0]["ok"] is True
    assert run.steps("wait for health")[0]["ok"] is True
    assert run.steps("reset prefix cache")[0]["ok"] is False
    assert "restarted\n" in run.err, "what a command prints is for people"


def test_several_servers_behind_one_url_are_not_cleared(result_of: ResultOf) -> None:
    run = result_of("through a router")
    assert (run.status, run.verified) == (1, None)
    assert "several servers" in run.reason and "process start times" in run.reason
    assert run.seen["requests"] == 0 and not run.steps("reset prefix cache")


def test_every_rank_of_one_server_is_planted_and_probed(result_of: ResultOf) -> None:
    run = result_of("two ranks")
    assert (run.status, run.verified) == (0, True), run.err
    url = run.seen["url"]
    places = sorted(proof["where"] for proof in run.proofs("engine"))
    assert places == [f"{url} rank 0", f"{url} rank 0", f"{url} rank 1", f"{url} rank 1"]


def test_a_reset_that_missed_a_rank_is_caught_there(result_of: ResultOf) -> None:
    run = result_of("one rank not reset")
    assert (run.status, run.verified) == (1, False)
    verdicts = {(proof["where"][-6:], proof["verified"]) for proof in run.proofs("engine")}
    assert verdicts == {("rank 0", True), ("rank 1", False)}


def test_a_rank_that_cannot_be_chosen_is_not_shown(result_of: ResultOf) -> None:
    run = result_of("ranks not chosen")
    assert (run.status, run.verified) == (1, None)
    assert "X-data-parallel-rank" in run.reason


def test_a_dry_run_says_what_would_go_and_sends_nothing(result_of: ResultOf) -> None:
    run = result_of("dry run")
    assert (run.status, run.verified) == (0, None)
    assert run.record is not None and run.record["dry_run"] is True
    assert run.seen["before"] == run.seen["after"]
    requests, keys = run.seen["before"]
    assert requests == 1 and keys > 0
    [store] = run.steps("remove every object")
    assert f"{keys} keys, {keys} of them ours" in store["answer"]
    assert run.record["steps"][0]["what"] == "run command"
    assert all(step["ok"] is None for step in run.record["steps"])


# Ways that need no engine


def test_commands_alone_are_not_shown_to_have_cleared_anything(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    run = kvclear("--command", f"echo to people; touch {mark}", "--wait", "0")
    assert (run.status, run.verified) == (1, None)
    assert mark.exists() and "to people" in run.err
    assert "nothing was looked at" in run.reason
    failing = kvclear("--command", "exit 3", "--wait", "0.1")
    assert failing.steps("run command")[0]["ok"] is False
    assert [step["what"] for step in failing.record["steps"]] == ["run command", "wait"]
    assert "exit status 3" in failing.err


def test_the_documents_clear_is_tried_and_judged() -> None:
    from tests.simulated import kvsim

    with kvsim("--role", "store") as store:
        run = kvclear("--metadata-clear", f"{store.url}/metadata")
        hook = kvclear("--http", f"POST {store.url}/api/v1/remove_all?force=true&token=s3cret")
    assert run.status == 1
    [step] = run.steps("clear metadata")
    assert step["ok"] is False and step["answer"].startswith("404")
    assert "no such API: real Mooncake has none" in step["advice"]
    assert "--mooncake http://127.0.0.1:9003" in run.err
    gone = kvclear("--metadata-clear", f"{store.url}/metadata")
    assert gone.steps("clear metadata")[0]["answer"] == "connection refused"
    assert (hook.status, hook.verified) == (1, None)
    [sent] = hook.steps("http POST")
    assert sent["ok"] is None and '"success":true' in sent["answer"].replace(" ", "")
    assert "s3cret" not in json.dumps(hook.record) + hook.err


def test_health_is_waited_for_and_its_end_is_told() -> None:
    run = kvclear("--health", "http://127.0.0.1:9", "--timeout", "0.2")
    assert run.status == 1
    [step] = run.steps("wait for health")
    assert step["ok"] is False and "connection refused" in step["answer"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "nothing to clear: name engines with --vllm and --mooncake"),
        (["--engine", "redis=http://a"], "engine 'redis': no such kind; known: "),
        (["--vllm", "127.0.0.1:8000"], "write http://HOST:PORT"),
        (["--http", "http://a/flush"], 'write "METHOD URL"'),
        (["--vllm", "http://127.0.0.1:9"], "connection refused; is the server running?"),
        (["--mooncake", "http://127.0.0.1:9"], "try: curl http://127.0.0.1:9/metrics"),
        (["--header", "nocolon", "--wait", "1"], "write 'Name: value'"),
        (["--config", "no-such.yaml"], "no-such.yaml: no such file or directory"),
    ],
)
def test_what_cannot_run_is_one_line_and_status_2(flags: list[str], message: str) -> None:
    run = kvclear(*flags)
    assert (run.status, run.record) == (2, None)
    assert message in run.err and run.err.count("\n") == 1
