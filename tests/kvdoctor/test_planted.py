"""Misconfigurations, each planted on kvsim: the doctor names it, and names nothing else."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.family import environment
from tests.kvdoctor.conftest import bad, balancer, diagnoses, fault, one
from tests.simulated import FAST, Sim, kvsim

from kvengine import vllm

NOWHERE = "http://127.0.0.1:9"


# --- healthy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
def test_a_healthy_pair_is_left_in_peace(store: Sim, first: Sim, reset: bool) -> None:
    with kvsim(*FAST, "--store", store.url) as second:
        found = diagnoses(first.url, second.url, store=store.url, reset=reset)
    assert bad(found) == set()
    assert {one.code for one in found} >= {"simulated", "smallest_hit", "examined"}
    assert ("skipped" in {one.code for one in found}) is not reset
    cost = one(found, "examined").evidence
    assert 8 <= cost["prompts"] <= 30
    assert cost["prompt_tokens"] < 2500 * cost["prompts"]


def test_nothing_is_cleared_and_nothing_of_others_is_touched(store: Sim, first: Sim) -> None:
    """Whoever has something cached still finds it, in the engine and in the store."""
    text = "somebody else's long prompt " * 200
    first.complete(text)
    kept = first.complete(text)["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert kept > 500
    before = set(store.get("/get_all_keys").split())
    assert bad(diagnoses(first.url, store=store.url)) == set()
    assert first.complete(text)["usage"]["prompt_tokens_details"]["cached_tokens"] == kept
    assert before <= set(store.get("/get_all_keys").split())


# --- one engine ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("planted", "code", "change"),
    [
        ("null_details", "cached_tokens_not_reported", "--enable-prompt-tokens-details"),
        ("drop_usage", "usage_missing", "--enable-force-include-usage"),
        ("no_metrics", "metrics_missing", "--metrics-url"),
        ("evict", "no_local_hit", "--enable-prefix-caching"),
        ("ignore_salt", "salt_ignored", "--salt auto"),
        ("fake_hits", "pd_transfer", "prefiller"),
        ("buffered", "stream_buffered", "proxy_buffering off"),
        ("compressed", "compressed", "gzip off"),
        ("idle_close_s=0.3", "idle_timeout_short", "keepalive_timeout"),
        ("http_error=500", "prompts_refused", "by hand"),
    ],
)
def test_what_is_wrong_with_one_engine(node: Sim, planted: str, code: str, change: str) -> None:
    with fault(node, planted):
        found = diagnoses(node.url)
    assert bad(found) == {code}
    assert change in (one(found, code).change or "")
    assert one(found, code).where == node.url
    assert one(found, "examined").evidence["prompts"] < 15


def test_what_is_wrong_with_how_an_engine_was_started() -> None:
    """Three things at once: none hides another."""
    changes = {
        "reset_missing": "VLLM_SERVER_DEV_MODE=1",
        "dated_template": "--chat-template",
        "context_short": "--max-model-len",
    }
    with kvsim(*FAST, "--no-dev-mode", "--dated-template", "--max-model-len", "1200") as sim:
        found = diagnoses(sim.url)
    assert bad(found) == set(changes)
    for code, change in changes.items():
        assert change in (one(found, code).change or "")


def test_a_cache_that_no_salt_parts(node: Sim) -> None:
    with fault(node, "persistent"):
        found = diagnoses(node.url)
    assert bad(found) == {"salt_ignored"}
    assert "a nonce at the prompt's head" in (one(found, "salt_ignored").change or "")


def test_a_reset_that_does_nothing(node: Sim) -> None:
    with fault(node, "reset_lies"):
        assert bad(diagnoses(node.url)) == set(), "not asked, not known"
        found = diagnoses(node.url, reset=True)
    assert bad(found) == {"reset_without_effect"}
    assert one(found, "reset_without_effect").evidence["local_tokens"] > 500


def test_a_reset_that_is_refused(node: Sim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "BUSY_WAITS_S", (0.01,))
    with fault(node, "reset_busy=1000"):
        assert bad(diagnoses(node.url, reset=True)) == {"reset_refused"}


def test_an_old_version_is_told_and_no_complaint() -> None:
    with kvsim(*FAST, "--vllm-version", "0.22.1") as sim:
        found = diagnoses(sim.url, reset=True)
    assert bad(found) == set()
    assert {one.code for one in found} >= {"null_means_zero", "reset_silent"}


def test_an_old_version_that_tells_nothing_is_not_taken_for_zeros() -> None:
    with kvsim(*FAST, "--vllm-version", "0.22.1", "--no-prompt-tokens-details") as sim:
        assert bad(diagnoses(sim.url)) == {"cached_tokens_not_reported"}


def test_a_dead_engine_behind_a_living_server() -> None:
    with kvsim(*FAST, "--fault", "engine_death") as sim:
        with contextlib.suppress(OSError):
            sim.complete("the last words")
        assert bad(diagnoses(sim.url)) == {"engine_dead"}


def test_replicas_behind_one_url(node: Sim) -> None:
    with kvsim(*FAST) as other, balancer(node.url, other.url) as url:
        found = diagnoses(url)
    assert "hidden_replicas" in bad(found)
    assert found[0].code == "hidden_replicas", "the worst stands first"
    assert "2 process start times" in found[0].seen


def test_a_balancer_with_one_server_behind_it_is_no_complaint(node: Sim) -> None:
    with balancer(node.url) as url:
        assert bad(diagnoses(url)) == set()


def test_a_gateway_that_passes_prompts_alone(node: Sim) -> None:
    """What it hides is looked at where it is, if the engine's own URL is named."""
    with balancer(node.url, hides=("/metrics", "/reset", "/server_info")) as url:
        assert bad(diagnoses(url)) == {"metrics_missing", "reset_missing"}
        found = diagnoses(url, engine=node.url, reset=True)
    assert bad(found) == set()
    assert "skipped" not in {one.code for one in found}


@pytest.mark.skipif(not Path("/proc/sys").is_dir(), reason="127.0.0.2 is this machine on Linux")
def test_a_port_that_listens_everywhere() -> None:
    with kvsim(*FAST, "--host", "0.0.0.0") as sim:
        found = diagnoses(sim.url.replace("0.0.0.0", "127.0.0.1"))
    assert bad(found) == {"admin_exposed"}
    assert "POST /reset_prefix_cache" in one(found, "admin_exposed").seen


def test_somebody_else_is_there() -> None:
    with kvsim(*FAST) as sim, stranger(sim):
        assert "foreign_traffic" in bad(diagnoses(sim.url))


def test_a_prefiller_and_a_decoder_behind_a_proxy() -> None:
    """The decoder's cached tokens are the prefiller's where the proxy hands them on, else not."""
    with contextlib.ExitStack() as stack:
        halves = [stack.enter_context(kvsim(*FAST, "--role", role)) for role in PD]
        flags = ("--role", "proxy", "--prefiller", halves[0].url, "--decoder", halves[1].url)
        proxy = stack.enter_context(kvsim(*flags))
        with fault(proxy, "no_models"):
            assert bad(diagnoses(proxy.url, engine=halves[0].url)) == set()
        with fault(proxy, "hide_cached"):
            found = diagnoses(proxy.url, engine=halves[0].url)
    assert bad(found) == {"pd_transfer"}
    assert found[0].where == proxy.url


PD = ("prefill", "decode")


@contextlib.contextmanager
def stranger(sim: Sim) -> Iterator[None]:
    """Sends a request every now and then."""
    gone = threading.Event()

    def work() -> None:
        while not gone.wait(0.05):
            sim.complete("health check")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        gone.set()
        thread.join()


# --- two engines and a store ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "codes"),
    [
        ("--hash-seed 7", {"hash_seed_differs", "remote_miss"}),
        ("--block-tokens 32", {"block_size_differs", "remote_miss"}),
        ("--model other", {"model_differs", "keys_differ", "remote_miss"}),
        (
            "--vllm-version 0.31.2 --max-model-len 60000",
            {"version_differs", "context_differs"},
        ),
    ],
)
def test_a_second_node_that_is_not_like_the_first(
    store: Sim, first: Sim, flags: str, codes: set[str]
) -> None:
    with kvsim(*FAST, "--store", store.url, *flags.split()) as second:
        found = diagnoses(first.url, second.url, store=store.url)
    assert bad(found) == codes
    assert {finding.where for finding in found if finding.code in codes} == {second.url}


def test_a_second_node_without_a_connector(store: Sim, first: Sim, node: Sim) -> None:
    found = diagnoses(first.url, node.url, store=store.url)
    assert bad(found) == {"no_connector", "remote_miss"}
    miss = one(found, "remote_miss")
    assert miss.where == node.url
    assert f"{node.url} has no connector" in miss.seen
    assert "--kv-transfer-config" in (miss.change or "")


def test_a_second_node_before_another_store(store: Sim, first: Sim) -> None:
    with (
        kvsim("--role", "store") as elsewhere,
        kvsim(*FAST, "--store", elsewhere.url) as second,
    ):
        found = diagnoses(first.url, second.url, store=store.url)
    assert bad(found) == {"other_store", "remote_miss"}
    assert one(found, "other_store").where == second.url


def test_a_first_node_that_saves_nothing(store: Sim, first: Sim) -> None:
    with (
        fault(first, "save_never"),
        kvsim(*FAST, "--store", store.url) as second,
    ):
        found = diagnoses(first.url, second.url, store=store.url)
    assert bad(found) == {"nothing_saved", "remote_miss"}
    assert one(found, "nothing_saved").where == first.url


def test_a_store_that_gives_nothing_back_after_a_reset(store: Sim, first: Sim) -> None:
    with fault(first, "save_never"):
        found = diagnoses(first.url, store=store.url, reset=True)
    assert bad(found) == {"nothing_saved", "store_miss"}


def test_a_store_without_room() -> None:
    with (
        kvsim("--role", "store", "--capacity-bytes", str(70 * 65536), "--watermark", "1") as small,
        kvsim(*FAST, "--store", small.url) as sim,
    ):
        assert "store_full" in bad(diagnoses(sim.url, store=small.url))


def test_servers_that_do_not_answer(node: Sim) -> None:
    found = diagnoses(node.url, NOWHERE, store="http://127.0.0.1:11")
    assert [finding.where for finding in found if finding.code == "unreachable"] == [
        NOWHERE,
        "http://127.0.0.1:11",
    ]
    assert one(found, "examined").evidence["prompts"] > 3, "the others are examined"


# --- the command ---------------------------------------------------------------------------------


def command(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        env=environment(),
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command_on_a_machine_that_may_open_few_files(node: Sim) -> None:
    """Lines on stdout, progress and a summary on stderr, and the status says no."""
    done = command(f"ulimit -n 256; kvdoctor --url {node.url}/v1 --header 'X-Team: a'")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    limit = next(line for line in lines if line["code"] == "open_files_low")
    assert (limit["where"], limit["evidence"]["open_files"]) == (None, 256)
    assert "ulimit -Hn 65536" in limit["change"]
    assert done.returncode == 1
    assert lines[-1]["code"] == "examined"
    assert all(line["simulated"] for line in lines)
    told = done.stderr.splitlines()
    assert told[0] == "kvdoctor: meeting 1 engines"
    assert told[-1].startswith("kvdoctor: SIMULATED: ")
    assert "open_files_low" in told[-1]
