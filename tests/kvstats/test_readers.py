"""Several reading processes make what one makes, to the byte, and end as one does."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.family import environment
from tests.kvstats.streams import Made, cold, failed, hit, no_reuse, node, request, shards
from tests.kvstats.test_blocks import LINE, SPOILT, complaint_of, spoil

from kvpipe.process import ToolError
from kvpipe.records import Arrival
from kvstats import blocks, readers, round
from kvstats.distribution import Values, stat_of
from kvstats.ledger import Ledger
from kvstats.lots import lots_of
from kvstats.readers import Reading
from kvstats.rows import Rows
from kvstats.streams import Rounds
from kvstats.summary import summarise

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of five lines, from the first on; few rows, values and groups are kept exactly."""
    monkeypatch.setattr(blocks, "BLOCK", 5 * LINE)
    monkeypatch.setattr(readers, "ALONE", 0)
    monkeypatch.setattr(round, "Rows", partial(Rows, limit=40))
    monkeypatch.setattr(round, "Values", partial(Values, exact=50))
    monkeypatch.setattr(round, "Ledger", partial(Ledger, limit=3))


def made_by(count: int, *streams: bytes) -> list[bytes]:
    """What so many reading processes make of files, one line a round, in any order of them."""
    rounds = Rounds({"ttft": 0.5, "tpot": 0.02})
    with Reading(rounds, readers=count) as reading:
        for number, stream in enumerate(streams):
            reading.read(BytesIO(stream), f"{number}.jsonl")
        assert len(reading._readers) == count
    return sorted(msgspec.json.encode(summarise(one)) for one in rounds)


def spoilt(made: Made, seed: int) -> Made:
    """Some failed, some did not report, some were retried, some answers came in few reads."""
    chance = random.Random(seed)

    def one(like: request) -> request:
        if chance.random() < 0.1:
            return failed(like, chance.choice(["timeout", "http_error"]))
        over = chance.choice(
            [{}, {}, {"cached_tokens": None}, {"retries": 1}, {"stamp_source": "user"},
             {"output_tokens": 90, "reads": 2}, {"new_tokens": None}, {"chunk_ns": None},
             {"server_timings": {"queue_time_ms": chance.random()}}, {"end_ns": 2**60}]
        )  # fmt: skip
        return msgspec.structs.replace(like, **over)

    return made.map(one)


def experiment(seed: int) -> list[Made]:
    """Three rounds; the second was sent by four clients."""
    shape = {"groups": 6, "followers": 9, "uniques": 20, "sentinels": 2}
    first = spoilt(cold(**shape).seen_by(node(cold(**shape))), seed)
    second = spoilt(cold(**shape).named("b").head(repeat=2), seed + 1)
    open_loop = Arrival(kind="poisson", rate_rps=3.0)
    return [no_reuse(), first, *shards(second.head(arrival=open_loop), 4), hit()]


@pytest.mark.parametrize("seed", range(3))
def test_any_number_of_processes_any_order_any_files(seed: int) -> None:
    made = experiment(seed)
    wanted = made_by(0, b"".join(one.lines() for one in made))
    assert len(wanted) == 4
    order = random.Random(seed)
    for count in (1, 2, 3):
        mixed = [one.lines() for one in order.sample(made, len(made))]
        assert made_by(count, b"".join(mixed)) == wanted  # cat
        assert made_by(count, *mixed) == wanted  # files


def test_shards_line_by_line() -> None:
    parts = [part.lines().splitlines(True) for part in shards(spoilt(cold(uniques=90), 1), 2)]
    heads, feet = [part[0] for part in parts], [part[-1] for part in parts]
    mixed = [line for pair in zip(parts[0][1:-1], parts[1][1:-1], strict=False) for line in pair]
    mixed += [line for part in parts for line in part[1:-1] if line not in mixed]
    whole = b"".join([*heads, *mixed, *feet])
    assert made_by(2, whole) == made_by(0, b"".join(line for part in parts for line in part))


@pytest.mark.parametrize("at", [1, 30])
@pytest.mark.parametrize("how", SPOILT)
def test_what_is_refused_is_refused_with_its_line(how: str, at: int) -> None:
    lines = spoil(how, at)
    rounds, before = Rounds({}), set(children())
    with pytest.raises(ToolError) as got, Reading(rounds, readers=2) as reading:
        reading.read(BytesIO(cold().named("before").head(name="before").lines()), "before.jsonl")
        reading.read(BytesIO(b"".join(lines)), "in.jsonl")
    assert str(got.value) == complaint_of(lines)
    assert set(children()) <= before, "a reading process is left"


def test_the_same_index_in_blocks_of_different_processes() -> None:
    lines = cold(uniques=60).lines().splitlines(True)
    lines.insert(50, lines[3])
    with pytest.raises(ToolError, match=r"^in.jsonl:51: index 2 twice in round 1"):
        made_by_lines(lines)


def test_a_request_behind_the_end_of_its_run() -> None:
    lines = cold(uniques=60).lines().splitlines(True)
    lines.insert(30, lines.pop())
    with pytest.raises(ToolError, match=r"^in.jsonl:32: request: run_id r1 has ended"):
        made_by_lines(lines)


def made_by_lines(lines: list[bytes]) -> None:
    with Reading(Rounds({}), readers=2) as reading:
        reading.read(BytesIO(b"".join(lines)), "in.jsonl")


def test_a_line_longer_than_any_block() -> None:
    made = cold(uniques=90)
    long = made.change(lambda one: one.index == 40, output_text="x" * 40 * LINE)
    assert made_by(2, long.lines()) == made_by(0, made.lines())


def test_small_input_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "ALONE", len(cold().lines()))
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    with Reading(Rounds({}), readers=2) as reading:
        reading.read(BytesIO(cold().lines()), "in.jsonl")


@pytest.mark.parametrize(
    ("mine", "load", "wanted"),
    [(1, 0.0, 0), (2, 0.0, 2), (64, 40.0, readers.MOST), (64, 60.0, 0)],
    ids=["one processor", "two", "many", "busy"],
)
def test_as_many_processes_as_there_are_processors_to_have(
    monkeypatch: pytest.MonkeyPatch, mine: int, load: float, wanted: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(mine)))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert readers.processes() == wanted


def test_a_process_that_is_killed_is_one_line() -> None:
    rounds, before = Rounds({}), set(children())
    lines = cold(uniques=200).lines()
    with pytest.raises(ToolError, match=r"^reading process [0-9]+ is gone"):  # noqa: SIM117
        with Reading(rounds, readers=2) as reading:
            reading.read(BytesIO(lines[: len(lines) // 2].rpartition(b"\n")[0] + b"\n"), "a")
            os.kill(reading._readers[1].pid, signal.SIGKILL)
            reading.read(BytesIO(lines[len(lines) // 2 :].partition(b"\n")[2]), "b")
    assert set(children()) <= before, "a reading process is left"


def children(pid: int | None = None) -> list[int]:
    text = Path(f"/proc/{pid or os.getpid()}/task/{pid or os.getpid()}/children").read_text()
    return [int(one) for one in text.split()]


TOOL = """
from kvstats import blocks, readers
from kvstats.cli import main
blocks.BLOCK, readers.ALONE, readers.processes = 2_000, 0, lambda: 2
main()
"""


@pytest.fixture
def running(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """kvstats with two reading processes, half a stream into its pipe."""
    with subprocess.Popen(
        [sys.executable, "-c", TOOL, *request.param],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment(), start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(b"".join(LONG[:300]))
        process.stdin.flush()
        while len(children(process.pid)) < 2 and process.poll() is None:
            time.sleep(0.01)
        yield process
        process.kill()


LONG = cold(uniques=600).lines().splitlines(True)


def gone(pids: list[int]) -> bool:
    """Within seconds: they are told by the end of their pipe."""
    for _ in range(500):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("running", [[]], indirect=True)
def test_ctrl_c_waits_for_the_end_of_a_pipe(running: subprocess.Popen[bytes]) -> None:
    readers_ = children(running.pid)
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(b"".join(LONG[300:]))
    assert running.returncode == -signal.SIGINT, err
    assert msgspec.json.decode(out)["total_requests"] == len(LONG) - 3
    assert gone(readers_)


@pytest.mark.parametrize("running", [["/dev/stdin"]], indirect=True)
def test_ctrl_c_while_a_file_is_read_ends_all(running: subprocess.Popen[bytes]) -> None:
    readers_ = children(running.pid)
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate()
    assert (running.returncode, out, err) == (-signal.SIGINT, b"", b"")
    assert gone(readers_)


@pytest.mark.parametrize("running", [[]], indirect=True)
def test_none_outlives_a_kvstats_that_was_killed(running: subprocess.Popen[bytes]) -> None:
    readers_ = children(running.pid)
    running.kill()
    running.communicate()
    assert len(readers_) == 2
    assert gone(readers_)


@given(st.lists(st.floats(-9, 1e4), max_size=60), st.data())
@settings(max_examples=60)
def test_values_merge(values: list[float], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(values)))
    first, second, whole = Values(20), Values(20), Values(20)
    first.extend(values[:cut])
    second.extend(values[cut:])
    whole.extend(values)
    first.merge(second)
    assert stat_of([first]) == stat_of([whole])


@pytest.mark.parametrize("large", [1, 2**55])
@pytest.mark.parametrize("limit", [3, 10, 100])
def test_ledgers_merge(limit: int, large: int) -> None:
    chance = random.Random(limit)
    requests = [
        request(n, group=chance.choice([None, *"abcdefghijklmnop"]), new_tokens=n * large)
        for n in range(200)
    ]
    parts = [Ledger("cold", limit=limit) for _ in range(3)]
    whole = Ledger("cold", limit=limit)
    for one in chance.sample(requests, len(requests)):
        for lot in lots_of([one]):
            chance.choice(parts).add(lot)
            whole.add(lot)
    for part in parts[1:]:
        parts[0].merge(part)
    assert dict(parts[0].entries()) == dict(whole.entries())
    assert parts[0].whole == whole.whole
    assert (parts[0].floor, parts[0].scale) == (whole.floor, whole.scale)
