"""Every finding, provoked on kvsim through the real pipe, and a near miss that stays silent.

One row a finding in PROVOKED and one in SILENT; `test_every_finding_has_both` holds the table
against the enumeration in the schema.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from tests.family import ROOT, environment
from tests.kvload.workload import lines, write
from tests.simulated import FAST, Sim, cluster, kvsim

from kvpipe.records import Code

SHAPE = (
    "--scenario long_context_high_reuse --requests 12 --contexts 3 --context-tokens 600"
    " --output-tokens 6 --pause 0"
)
# Findings about time need times that a busy machine's scheduler does not drown: 600 tokens cold
# take about 300 ms here, a hit about 25.
SLOW = ("--prefill-tps", "2000", "--overhead-ms", "5")
Case = Callable[[Path], set[str]]


def pipe(command: str) -> bytes:
    """Standard output of a pipeline; its status is not this file's matter."""
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        env=environment(),
        timeout=300,
        check=False,
    )
    assert done.stdout, f"{command}\n{done.stderr.decode()}"
    return done.stdout


def load(sim: Sim, flags: str = "", shape: str = SHAPE, warmup: int = 0) -> bytes:
    """The records of a run."""
    return pipe(f"kvload -q --url {sim.url} {shape} --warmup {warmup} {flags}")


def stats(records: bytes, folder: Path) -> list[dict[str, Any]]:
    """Round stats of a stream."""
    path = folder / "records.jsonl"
    path.write_bytes(records)
    return [json.loads(line) for line in pipe(f"kvstats {path}").splitlines()]


def codes(records: bytes, folder: Path) -> set[str]:
    """Findings of a stream's rounds."""
    return {finding["code"] for one in stats(records, folder) for finding in one["findings"]}


def reported(records: bytes, folder: Path) -> set[str]:
    """Findings that the report shows, those between rounds among them."""
    path = folder / "stats.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in stats(records, folder)))
    report = json.loads(pipe(f"kvreport --format json {path}"))
    return set(_codes_in(report))


def _codes_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "code" in value and "severity" in value:
            yield value["code"]
        for inner in value.values():
            yield from _codes_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _codes_in(inner)


def edited(records: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The stream with every record passed through `change`."""
    rows = [json.loads(line) for line in records.splitlines()]
    for row in rows:
        change(row)
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def one_round(
    *faults: str,
    flags: str = "--rounds 1",
    engine: tuple[str, ...] = FAST,
    warmup: int = 0,
) -> Case:
    """A cold round on a node with these faults from the start."""

    def case(folder: Path) -> set[str]:
        with kvsim(*engine, *(part for fault in faults for part in ("--fault", fault))) as sim:
            return codes(load(sim, flags, warmup=warmup), folder)

    return case


def two_rounds(
    *faults: str, flags: str = "", engine: tuple[str, ...] = FAST, warmup: int = 0
) -> Case:
    """Cold and hit, as kvreport sees them."""

    def case(folder: Path) -> set[str]:
        with kvsim(*engine, *(part for fault in faults for part in ("--fault", fault))) as sim:
            return reported(load(sim, flags, warmup=warmup), folder)

    return case


def with_fault_before_the_hits(fault: str | None) -> Case:
    """Cold on a healthy node, hits after `fault` was switched on."""

    def case(folder: Path) -> set[str]:
        with kvsim(*FAST) as sim:
            same = "--experiment e --salt s"
            cold = load(sim, f"--round 1 {same}")
            if fault is not None:
                sim.fault(fault)
            return reported(cold + load(sim, f"--round 2 {same}"), folder)

    return case


def sent_twice(fault: str | None, salt: str, then: str) -> Case:
    """The same cold round twice; what the second one says."""

    def case(folder: Path) -> set[str]:
        with kvsim(*FAST, *(("--fault", fault) if fault else ())) as sim:
            load(sim, f"--round 1 --salt {salt}")
            return codes(load(sim, f"--round 1 --salt {then}"), folder)

    return case


def with_a_stranger(*, during: bool) -> Case:
    """Somebody else's request while the round runs, or before it."""

    def case(folder: Path) -> set[str]:
        with kvsim(*FAST) as sim:
            if not during:
                sim.complete("a stranger " * 50)
                return codes(load(sim, "--rounds 1"), folder)
            stop = threading.Event()

            def visit() -> None:
                while not stop.wait(0.05):
                    sim.complete("a stranger " * 50)

            stranger = threading.Thread(target=visit)
            stranger.start()
            try:
                return codes(load(sim, "--rounds 1"), folder)
            finally:
                stop.set()
                stranger.join()

    return case


def plans(seeds: tuple[int, int]) -> Case:
    """Round 1 of one seed against round 2 of another."""

    def case(folder: Path) -> set[str]:
        with kvsim(*FAST) as sim:
            one, two = seeds
            records = load(sim, f"--round 1 --experiment e --salt s --seed {one}")
            records += load(sim, f"--round 2 --experiment e --salt s --seed {two}")
            return reported(records, folder)

    return case


def stopped_in_between(*, stop: bool) -> Case:
    """kvload starved in an open loop by SIGSTOP; without it, the same run."""

    def case(folder: Path) -> set[str]:
        work = write(folder / "work.jsonl", lines(groups=60, each=1, context=30))
        out = folder / "out.jsonl"
        with kvsim(*FAST) as sim, out.open("wb") as stream:
            process = subprocess.Popen(
                shlex.split(
                    f"kvload -q --url {sim.url} --workload {work} --rate 20 --arrival constant"
                    " --rounds 1 --warmup 0"
                ),
                stdout=stream,
                env=environment(),
            )
            wait_for(lambda: out.read_bytes().count(b'"request"') >= 5)
            if stop:
                process.send_signal(signal.SIGSTOP)
                time.sleep(1.0)
                process.send_signal(signal.SIGCONT)
            process.wait(120)
        return codes(out.read_bytes(), folder)

    return case


def wait_for(seen: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not seen() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert seen()


def open_loop(rate: float) -> Case:
    """Unique prompts of about 120 ms each at a rate that the engine can or cannot serve."""

    def case(folder: Path) -> set[str]:
        shape = "--scenario cold_start --requests 33 --context-tokens 600 --output-tokens 2"
        with kvsim("--prefill-tps", "6000", "--max-num-seqs", "1") as sim:
            return codes(
                load(sim, f"--rounds 1 --rate {rate} --arrival constant", shape=shape), folder
            )

    return case


def through_the_store(*faults: str) -> Case:
    """Tier store, with faults on the node."""

    def case(folder: Path) -> set[str]:
        with cluster(*(part for fault in faults for part in ("--fault", fault))) as (store, a, _):
            return codes(load(a, f"--tier store --metrics-url store={store.url}"), folder)

    return case


def without_metrics(*faults: str, flags: str = "--rounds 1") -> Case:
    return one_round("no_metrics", *faults, flags=flags)


def with_stamps(change: Callable[[dict[str, Any]], None]) -> Case:
    def case(folder: Path) -> set[str]:
        with kvsim(*FAST) as sim:
            return codes(edited(load(sim, "--rounds 1"), change), folder)

    return case


def some_user_stamps(row: dict[str, Any]) -> None:
    if row["record"] == "request" and row["index"] % 2:
        row["stamp_source"] = "user"


def a_real_engine(row: dict[str, Any]) -> None:
    if row["record"] == "run":
        row["simulated"] = False


def unchanged(_: dict[str, Any]) -> None:
    """The stream as it was."""


def bare_lines(folder: Path) -> set[str]:
    work = write(folder / "work.jsonl", lines(groups=2, each=2))
    with kvsim(*FAST) as sim:
        return codes(load(sim, "--rounds 1", shape=f"--workload {work}"), folder)


def calibrated(**host: str) -> Case:
    """A cold round with a calibration made a moment before, here or on a host of that name."""

    def case(folder: Path) -> set[str]:
        path = folder / "calibration.json"
        with kvsim(*FAST) as sim:
            run = json.loads(load(sim, "--rounds 1").splitlines()[0])
            known = json.loads((ROOT / "schemas/examples/valid/calibration.json").read_text())
            known["made_at"], known["tool_version"] = run["started_at"], run["tool_version"]
            known["host"] = run["host"] | ({"name": host["host"]} if host else {})
            path.write_text(json.dumps(known))
            return codes(load(sim, f"--rounds 1 --calibration {path}"), folder)

    return case


def cut_short(folder: Path) -> set[str]:
    with kvsim(*FAST) as sim:
        records = load(sim, "--rounds 1")
    return codes(b"".join(records.splitlines(keepends=True)[:-1]), folder)


def by_another_tool(_: Path) -> set[str]:
    written = pipe(f"kvstats --from vllm-bench {ROOT}/tests/data/peers/vllm-bench/cold.json")
    return {one["code"] for one in json.loads(written)["findings"]}


def behind_a_proxy(flow: str) -> Case:
    """A cold round on a prefiller and a decoder, with the counters of both."""

    def case(folder: Path) -> set[str]:
        with contextlib.ExitStack() as stack:
            prefiller, decoder = (
                stack.enter_context(kvsim("--role", role, "--flow", flow, *FAST))
                for role in ("prefill", "decode")
            )
            behind = ("--prefiller", prefiller.url, "--decoder", decoder.url)
            proxy = stack.enter_context(kvsim("--role", "proxy", "--flow", flow, *behind))
            watched = f"prefill={prefiller.url} --metrics-url decode={decoder.url}"
            return codes(load(proxy, f"--rounds 1 --metrics-url {watched}"), folder)

    return case


PROVOKED: dict[str, Case] = {
    "answers_differ": two_rounds("nondeterministic"),
    "barrier_unknown": without_metrics(),
    "cached_tokens_not_reported": one_round("null_details"),
    "calibration_unfit": calibrated(host="another"),
    "client_limited": stopped_in_between(stop=True),
    "cold_not_shown": without_metrics("null_details"),
    "contaminated": sent_twice("persistent", "one", "two"),
    "drift": two_rounds("drift=1.12", engine=SLOW),
    "errors": one_round("http_error=500,4"),
    "foreign_traffic": with_a_stranger(during=True),
    "imported": by_another_tool,
    "incomplete": cut_short,
    "lost": with_fault_before_the_hits("evict"),
    "not_isolated": sent_twice(None, "none", "none"),
    "overload": open_loop(30.0),
    "pd_transfer": one_round("fake_hits"),
    "token_first": behind_a_proxy("lmcache"),
    "plan_differs": plans((1, 2)),
    "restarted": one_round("restart=6"),
    "salt_ignored": two_rounds("ignore_salt", warmup=1),
    "simulated": one_round(),
    "stamps_mixed": with_stamps(some_user_stamps),
    "stream_buffered": one_round("buffered", flags="--rounds 1 --output-tokens 40"),
    "tier_not_shown": through_the_store("save_never"),
    "uncalibrated": bare_lines,
    "unequal_work": two_rounds("extra_tokens"),
    "warmup_unstable": one_round("warmup_slow=40", engine=SLOW, warmup=2),
}
SILENT: dict[str, Case] = {
    "answers_differ": two_rounds(),
    "barrier_unknown": one_round(),
    "cached_tokens_not_reported": one_round(),
    "calibration_unfit": calibrated(),
    "cold_not_shown": one_round("null_details"),  # the server's counters show it all the same
    "contaminated": sent_twice(None, "one", "two"),
    "drift": two_rounds(engine=SLOW, flags="--sentinels 8"),
    "errors": one_round(),
    "foreign_traffic": with_a_stranger(during=False),
    "imported": one_round(),
    "incomplete": one_round(),
    "lost": with_fault_before_the_hits(None),
    "not_isolated": sent_twice(None, "one", "two"),
    "overload": open_loop(4.0),
    "pd_transfer": one_round(),
    "token_first": behind_a_proxy("vllm"),
    "plan_differs": plans((1, 1)),
    "restarted": one_round(),
    "salt_ignored": two_rounds(warmup=1),
    "simulated": with_stamps(a_real_engine),
    "stamps_mixed": with_stamps(unchanged),
    "stream_buffered": one_round(flags="--rounds 1 --output-tokens 40"),
    "tier_not_shown": through_the_store(),
    "uncalibrated": one_round(),
    "unequal_work": two_rounds(),
    "warmup_unstable": one_round(engine=SLOW, warmup=2),
}
# A busy machine really does disturb these: one quiet run in three is what is asked for.
OF_TIME = {"drift", "warmup_unstable", "overload"}
# Its near miss would assert that this machine is quiet: it is held by tests/kvstats on recorded
# figures instead.
ON_RECORDED_FIGURES = {"client_limited"}


def test_every_finding_has_both() -> None:
    assert set(PROVOKED) == set(get_args(Code))
    assert set(SILENT) | ON_RECORDED_FIGURES == set(get_args(Code))


@pytest.mark.parametrize("code", PROVOKED)
def test_provoked(code: str, tmp_path: Path) -> None:
    assert code in PROVOKED[code](tmp_path)


@pytest.mark.parametrize("code", SILENT)
def test_silent(code: str, tmp_path: Path) -> None:
    tries = 3 if code in OF_TIME else 1
    for _ in range(tries):
        with contextlib.suppress(AssertionError):
            assert code not in SILENT[code](tmp_path)
            return
    pytest.fail(f"{code} was found where nothing is wrong")
