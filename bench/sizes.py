"""Sizes that people ask about, tried for real: what each took, and whether its answer was right.

  python -m bench.sizes                      `make sizes`: all of them, some ten minutes
  python -m bench.sizes --only trace         one; repeatable
  python -m bench.sizes --label sizes        keep figures and page; with --only the rest stays
  python -m bench.sizes --share 0.001        a look whether it works

10,000 streams over --workers, prompts of 128k tokens, a trace of a million lines, a record file of
1 GB, 200 scenarios in a report. What they are made of comes from a seed. Exit status 1 where a tool
failed or a count is not what it must be.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.conditions import conditions
from bench.kept import folder_of, keep, table
from bench.loads import workload
from bench.stats import stream_of
from bench.watched import Watched, watch

TRACE = Path(__file__).parents[1] / "tests/data/traces/conversation_trace.jsonl.gz"
TIMEOUT_S = 1800.0
TOKENS_128K = 131_072
MS = 1_000_000


class SizeError(Exception):
    """A tool failed before anything could be counted; the message is for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command of a size: what it took, what was counted in its output, and if that is right."""

    size: str
    command: str
    wall_s: float
    cpu_s: float
    peak_mb: float
    status: int
    counted: str
    right: bool


def step(size: str, command: str, done: Watched, counted: str, right: bool) -> Step:
    """A finished command as a row; a status that is not 0 is never right."""
    return Step(
        size=size,
        command=command,
        wall_s=done.wall_s,
        cpu_s=done.total_s,
        peak_mb=done.peak_mb,
        status=done.status,
        counted=counted,
        right=right and done.status == 0,
    )


def run(command: Sequence[str], out: Path, **flags: Any) -> Watched:
    """A command with its output in a file, watched; as `once`, shared pages count once."""
    words = ["bash", "-c", 'exec "${@:2}" > "$1"', "bash", str(out), *command]
    return watch(words, timeout_s=TIMEOUT_S, once=True, **flags)


@contextmanager
def simulated(folder: Path, *flags: str) -> Iterator[tuple[str, Path]]:
    """kvsim, its URL and its log; the log is whole when the block has been left."""
    truth = folder / "truth.jsonl"
    process = subprocess.Popen(
        ["kvsim", "--port", "0", "--truth", str(truth), *flags], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise SizeError("kvsim did not start")
        yield json.loads(line)["url"], truth
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


# 10,000 streams


def streams(folder: Path, share: float) -> Iterator[Step]:
    """All of them open at once, by the server's own log."""
    count = max(20, round(10_000 * share))
    work, records = folder / "work.jsonl", folder / "records.jsonl"
    with work.open("w", encoding="utf-8") as out:
        out.writelines(workload(count, 4))
    first_ms = max(500, round(15_000 * share))
    with simulated(folder, "--flat", "--ttft-ms", str(first_ms), "--itl-ms", "4000") as (url, log):
        done = run(
            [
                *("kvload", "-q", "--url", url, "--workload", str(work), "--rounds", "1"),
                *("--warmup", "0", "--concurrency", str(count), "--workers", "2"),
            ],
            records,
        )
    held = in_flight(log)
    rows = [row for row in lines(records) if row["record"] == "request"]
    fine = sum(row["status"] == "ok" and len(row["chunk_ns"]) > 0 for row in rows)
    yield step(
        f"{count:,} streams at once",
        f"kvload --concurrency {count} --workers 2",
        done,
        f"{fine:,} of {count:,} answered whole; {held:,} in flight at one moment",
        fine == count == len(rows) and held == count,
    )
    found = folder / "stats.json"
    done = run(["kvstats", str(records)], found)
    (stats,) = lines(found)
    codes = ", ".join(sorted(one["code"] for one in stats["findings"]))
    yield step(
        f"{count:,} streams at once",
        "kvstats",
        done,
        f"{stats['successful_requests']:,} requests; findings: {codes}",
        stats["successful_requests"] == count,
    )


def in_flight(truth: Path) -> int:
    """The most requests that the server held at one moment."""
    moves = []
    for row in lines(truth):
        if row["read_ns"] and row["end_ns"]:
            moves += [(row["read_ns"], 1), (row["end_ns"], -1)]
    return max(itertools.accumulate(move for _, move in sorted(moves)), default=0)


# Prompts of 128k tokens


def prompts(folder: Path, share: float) -> Iterator[Step]:
    """By estimate, and counted by the server."""
    tokens, requests = max(2_000, round(TOKENS_128K * share)), 16
    size = f"prompts of {tokens:,} tokens"
    engine = ("--max-model-len", str(2 * tokens), "--capacity-blocks", str(tokens * 2))
    fast = ("--prefill-tps", "2e6", "--max-num-batched-tokens", "65536", "--overhead-ms", "1")
    with simulated(folder, *engine, *fast) as (url, _):
        for words, flags in (("estimated", []), ("counted", ["--url", url])):
            plan, records = folder / f"{words}.jsonl", folder / f"{words}-records.jsonl"
            done = run(
                [
                    *("kvplan", "-q", "--scenario", "long_context_high_reuse", "--contexts", "4"),
                    *("--requests", str(requests), "--context-tokens", str(tokens)),
                    *("--output-tokens", "8", *flags),
                ],
                plan,
            )
            head, *planned = lines(plan)
            asked, got = head["asked_tokens"], sum(one["prompt_tokens"] for one in planned)
            yield step(
                size,
                f"kvplan ({words})",
                done,
                f"{got:,} tokens planned, {asked:,} asked for",
                abs(got / asked - 1) < 0.01,
            )
            done = run(
                [
                    *("kvload", "-q", "--url", url, "--workload", str(plan)),
                    *("--concurrency", "4", "--pause", "0", "--warmup", "0"),
                ],
                records,
            )
            rows = [row for row in lines(records) if row["record"] == "request"]
            fine = [row for row in rows if row["status"] == "ok"]
            longest = max((row["prompt_tokens"] for row in fine), default=0)
            yield step(
                size,
                f"kvload ({words})",
                done,
                f"{len(fine)} of {len(rows)} answered; the longest prompt {longest:,} tokens",
                len(fine) == len(rows) > 2 * requests and longest >= tokens,
            )


# A trace of a million lines


def trace(folder: Path, share: float) -> Iterator[Step]:
    """The conversation trace's form; hit ratios of the analysis against a count of our own."""
    count = max(1_000, round(1_000_000 * share))
    path, found = folder / "trace.jsonl", folder / "analysis.json"
    again, blocks = written_trace(path, count)
    done = run(["kvplan", "-q", "--trace", str(path), "--analyze"], found)
    analysis = json.loads(found.read_bytes())
    unique, ratio = analysis["unique_blocks"], analysis["block_hit_ratio"]
    yield step(
        f"trace of {count:,} lines, {path.stat().st_size / 1e6:,.0f} MB",
        "kvplan --trace --analyze",
        done,
        f"{analysis['requests']:,} requests; {analysis['blocks']:,} blocks, {ratio:.1%} of them"
        " come again",
        (analysis["requests"], analysis["blocks"], unique) == (count, blocks, blocks - again),
    )


def written_trace(path: Path, count: int, seed: int = 1) -> tuple[int, int]:
    """Copies of the carried trace, one after the other, until there are `count` lines.

    A copy keeps some conversations' blocks and numbers the others anew. Returns how many blocks
    came again, and how many there are.
    """
    with gzip.open(TRACE, "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    span = rows[-1]["timestamp"] + 3_000
    width = 1 + max(max(row["hash_ids"]) for row in rows)
    seen: set[int] = set()
    written = blocks = again = 0
    with path.open("w", encoding="utf-8") as out:
        for copy in itertools.count():
            for row in rows:
                ids = row["hash_ids"]
                # Decided by the conversation, so that what shared a prefix still does.
                kept = random.Random(f"{seed} {copy} {ids[1:2]}").random() < 0.3
                if copy and not kept:
                    ids = [ids[0], *(one + copy * width for one in ids[1:])]
                again += sum(one in seen for one in ids)
                seen.update(ids)
                blocks += len(ids)
                moved = {"timestamp": row["timestamp"] + copy * span, "hash_ids": ids}
                out.write(json.dumps(row | moved) + "\n")
                written += 1
                if written == count:
                    return again, blocks
    raise AssertionError("copies have no end")


# A record file of 1 GB


def records(folder: Path, share: float) -> Iterator[Step]:
    """As many requests as make the size."""
    most = round(1e9 * share)
    path, found = folder / "records.jsonl", folder / "stats.json"
    sample = sum(map(len, stream_of(1_000))) / 1_000
    count = max(1_000, round(most / sample) + 1)
    with path.open("wb") as out:
        out.writelines(stream_of(count))
    done = run(["kvstats", str(path)], found)
    (stats,) = lines(found)
    yield step(
        f"record file of {path.stat().st_size / 1e9:.2f} GB",
        "kvstats",
        done,
        f"{stats['successful_requests']:,} of {count:,} requests",
        stats["successful_requests"] == count and stats["complete"],
    )


# 200 scenarios in a report


def scenarios(folder: Path, share: float) -> Iterator[Step]:
    """Three repeats each, cold and hit."""
    count = max(3, round(200 * share))
    path, stats = folder / "records.jsonl", folder / "stats.jsonl"
    with path.open("w", encoding="utf-8") as out:
        for number, repeat in itertools.product(range(count), (1, 2, 3)):
            for arm in ("cold", "hit"):
                out.writelines(round_of(number, repeat, arm))
    size = f"{count} scenarios, three repeats"
    done = run(["kvstats", str(path)], stats)
    rounds = sum(1 for _ in lines(stats))
    yield step(size, "kvstats", done, f"{rounds:,} rounds", rounds == 6 * count)
    out_folder = folder / "report"
    done = run(
        ["kvreport", str(stats), "-o", str(out_folder)]
        + [word for name in ("text", "md", "html", "json", "png") for word in ("--format", name)],
        folder / "said",
    )
    report = json.loads((out_folder / "report.json").read_bytes())
    page = (out_folder / "report.html").stat().st_size / 1e6
    charts = len(list(out_folder.rglob("*.png")))
    names = len({one["name"] for one in report["scenarios"]})
    yield step(
        size,
        "kvreport (text, md, html, json, png)",
        done,
        f"{names} scenarios; {charts} charts; a page of {page:.1f} MB",
        names == count and charts > 0,
    )


def round_of(number: int, repeat: int, arm: str, requests: int = 16) -> Iterator[str]:
    """A round of `stream_of` under another name; in a hit round every prompt was there."""
    run_id = f"{number:06x}{repeat}{arm}"
    for line in stream_of(requests, seed=1000 * number + repeat):
        row = json.loads(line)
        row["run_id"] = run_id
        if row["record"] == "run":
            row |= {
                "name": f"scenario {number}",
                "experiment_id": f"sizes-{number}",
                "repeat": repeat,
                "arm": arm,
                "round_num": 1 if arm == "cold" else 2,
                "salt": f"s-{number}-{repeat}",
            }
        elif row["record"] == "request" and arm == "hit":
            row = hit(row)
        yield json.dumps(row) + "\n"


def hit(row: dict[str, Any]) -> dict[str, Any]:
    """The request as it was answered from the cache: a tenth of the wait."""
    saved = (row["first_token_ns"] - row["sent_ns"]) * 9 // 10
    moved = {
        name: row[name] - saved
        for name in row
        if name.endswith("_ns") and isinstance(row[name], int) and row[name] > row["body_sent_ns"]
    }
    cached = row["prompt_tokens"] // 16 * 16
    row = row | moved | {"chunk_ns": [one - saved for one in row["chunk_ns"]]}
    row |= {"cached_tokens": cached, "ideal_prior_tokens": cached}
    row["usage"]["prompt_tokens_details"]["cached_tokens"] = cached
    return row


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file, one after the other."""
    with path.open("rb") as stream:
        for line in stream:
            yield json.loads(line)


SIZES: dict[str, Callable[[Path, float], Iterator[Step]]] = {
    "streams": streams,
    "prompts": prompts,
    "trace": trace,
    "records": records,
    "scenarios": scenarios,
}


def page(steps: Sequence[Step]) -> list[str]:
    """One row a command."""
    head = ("size", "command", "wall", "processor", "memory", "status", "counted", "right")
    cells = [
        (one.size, f"`{one.command}`", f"{one.wall_s:.1f} s", f"{one.cpu_s:.1f} s",
         f"{one.peak_mb:,.0f} MB", str(one.status), one.counted, "yes" if one.right else "**no**")
        for one in steps
    ]  # fmt: skip
    return [
        "# Sizes",
        "",
        *table(head, cells),
        "",
        "Memory is the most that all processes of the command held at one look, ten a second,"
        " shared pages counted once; the server and the making of the input are not counted.",
    ]


def main() -> int:
    """Measure, print, and keep what has a label."""
    parser = argparse.ArgumentParser(description="sizes, tried for real")
    parser.add_argument("--only", action="append", choices=list(SIZES), help="repeatable")
    parser.add_argument("--share", type=float, default=1.0, help="of each size")
    parser.add_argument("--label", help="keep figures and page under this name")
    options = parser.parse_args()
    under: dict[str, Any] = {"command": " ".join(["python -m bench.sizes", *sys.argv[1:]])}
    under |= conditions() | {"server": "kvsim"}
    under.pop("compiler")
    wanted = options.only or list(SIZES)
    found = {} if options.label is None else earlier(folder_of(options.label) / "sizes.json")
    for name in SIZES:
        if name in wanted:
            with tempfile.TemporaryDirectory(prefix="kv-sizes-") as scratch:
                found[name] = list(SIZES[name](Path(scratch), options.share))
            print(f"bench: {name}", file=sys.stderr, flush=True)
        under["load_average_after"] = round(os.getloadavg()[0], 2)
        steps = [one for name in SIZES for one in found.get(name, ())]
        if options.label:
            sizes = {name: [asdict(one) for one in every] for name, every in found.items()}
            keep(
                folder_of(options.label),
                "sizes",
                {"conditions": under, "sizes": sizes},
                page(steps),
            )
    print("\n".join(page(steps)))
    return 0 if all(one.right for one in steps) else 1


def earlier(path: Path) -> dict[str, list[Step]]:
    """What an earlier run kept; nothing if there is none."""
    if not path.exists():
        return {}
    kept = json.loads(path.read_text(encoding="utf-8"))["sizes"]
    return {name: [Step(**one) for one in every] for name, every in kept.items()}


if __name__ == "__main__":
    sys.exit(main())
