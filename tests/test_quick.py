"""`make quick`: what fits into the time, and that its answer is true on endpoints of every kind.

Asserts on counts and words. What a run takes on this machine decides nothing: experiments here are
given less time than they need, and then the smallest is run.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from quick.shape import (
    LEAST_TOKENS,
    LENGTHS,
    Pace,
    Shape,
    estimate_s,
    fit,
    length_of,
    sending_s,
    shapes,
)
from tests.family import ROOT
from tests.kvmatrix.matrices import MAKE, clean_environment
from tests.simulated import kvsim

from kvpipe.process import ToolError

SLOWLY = ("--prefill-tps", "2000")  # a miss of 360 tokens is several times a hit
SMALLEST = "BUDGET=10"
BLIND_AND_SALTLESS = ("ignore_salt", "persistent", "no_metrics")
Record = dict[str, Any]


def pace(ttft_s: float, **changes: float) -> Pace:
    known = {"prompt_tokens": 2764.0, "e2e_s": ttft_s + 0.05, "around_s": 3.0} | changes
    return Pace(ttft_s=ttft_s, **known)


# --- what fits -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ttft_s", "left_s"),
    list(itertools.product((0.01, 0.1, 0.4, 0.9, 2.0, 5.0), (50.0, 70.0))),
)
def test_what_is_chosen_fits_even_if_nothing_ever_hits(ttft_s: float, left_s: float) -> None:
    chosen = fit(pace(ttft_s), left_s, LENGTHS[0])
    assert estimate_s(chosen, pace(ttft_s)) <= left_s
    longest = pace(ttft_s).request_s(chosen.prompt_tokens)
    sentinel = pace(ttft_s).request_s(min(1024, chosen.prompt_tokens))
    each = chosen.requests * longest + chosen.sentinels * sentinel
    assert chosen.rounds * each <= sending_s(chosen, pace(ttft_s)) <= left_s
    assert chosen.requests >= 5, "no interval below five"


def test_faster_endpoints_get_no_less() -> None:
    """Down to the slowest, where the context is cut short before the requests are too few."""
    chosen = [fit(pace(0.005 * 1.5**power), 65.0, LENGTHS[0]) for power in range(20)]
    rank = list(shapes(LENGTHS[0]))
    places = [rank.index(one) for one in chosen]
    assert places == sorted(places)
    assert chosen[0].repeats == 3, "an endpoint of milliseconds affords repeats"
    assert chosen[-1] == rank[-1] and chosen[-1].context_tokens == LENGTHS[-1]
    assert len(set(places)) >= 5


def test_where_nothing_fits_the_smallest_is_run() -> None:
    chosen = fit(pace(0.4), 1.0, LENGTHS[0])
    assert chosen == min(shapes(LENGTHS[0]), key=lambda one: estimate_s(one, pace(0.4)))


@pytest.mark.parametrize("limit", [400, 1024, 2048, 2800, 4096, None])
def test_no_prompt_is_longer_than_the_model_takes(limit: int | None) -> None:
    longest = length_of(limit)
    for one in shapes(longest):
        assert one.context_tokens <= longest
        assert limit is None or one.prompt_tokens + 4 < limit
    assert longest <= LENGTHS[0]


def test_a_model_of_too_few_tokens_is_told_what_it_takes() -> None:
    with pytest.raises(ToolError, match="takes 256 tokens: too few") as refused:
        length_of(256)
    [least] = [int(word) for word in re.findall(r"\((\d+) or more", str(refused.value))]
    assert length_of(least) == LEAST_TOKENS
    with pytest.raises(ToolError):
        length_of(least - 1)


def test_rounds_are_counted_with_their_control() -> None:
    one = Shape(context_tokens=500, requests=5, sentinels=3)
    assert (one.rounds, one.sent, "--control" in one.words(1)) == (2, 16, False)
    control = Shape(context_tokens=500, requests=16, sentinels=8, control=True)
    assert (control.rounds, control.sent, "--control" in control.words(1)) == (3, 72, True)
    repeats = Shape(context_tokens=500, requests=8, sentinels=5, repeats=3)
    assert (repeats.rounds, repeats.sent, "--control" in repeats.words(1)) == (9, 117, False)


# --- the whole of it -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Quick:
    """How it ended. `out` and `err` are on one line, whatever the width."""

    status: int
    out: str
    err: str
    folder: Path

    @property
    def records(self) -> list[Record]:
        return [json.loads(line) for line in (self.folder / "run.jsonl").read_text().splitlines()]

    def of(self, kind: str) -> list[Record]:
        return [one for one in self.records if one["record"] == kind]

    @property
    def stats(self) -> list[Record]:
        text = (self.folder / "stats.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]


def quick(folder: Path, *settings: str) -> Quick:
    """`make quick ...`; the records are found where it says that they are."""
    words = [*MAKE.split(), "quick", *settings]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=300,
        env=clean_environment() | {"TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    print(done.stdout, done.stderr)
    said = re.search(r"the records: (\S+)/run\.jsonl", done.stdout)
    return Quick(
        status=done.returncode,
        out=" ".join(done.stdout.split()),
        err=done.stderr,
        folder=Path(said[1]) if said else folder,
    )


@pytest.mark.slow
def test_the_answer_its_doubts_and_where_it_lies(tmp_path: Path) -> None:
    with kvsim(*SLOWLY) as engine:
        done = quick(tmp_path, f"URL={engine.url}", SMALLEST)
    assert done.status == 0
    assert re.match(r"SIMULATED: A hit on 364 tokens saves [\d.]+ ms of [\d.]+ ms \(", done.out)
    assert "cold proven." in done.out
    assert "engine prefix cache, as the server counted" in done.out
    assert "How sure" in done.out and "Doubts" in done.out
    assert {path.name for path in done.folder.iterdir()} >= {"report.txt", "report.md", "run.jsonl"}
    shape = min(shapes(LENGTHS[0]), key=lambda one: one.sent * one.prompt_tokens)
    assert len(done.of("request")) == shape.sent
    assert [one["cold_proof"] for one in done.stats] == ["proven", None]
    assert [one["failed_requests"] for one in done.stats] == [0, 0]
    assert done.stats[1]["efficiency"] == 1


@pytest.mark.slow
def test_what_nothing_tells_is_not_shown_and_it_says_what_to_do(tmp_path: Path) -> None:
    """No cached tokens in the answers and no /metrics: what is faster may be anything."""
    with kvsim(*SLOWLY, "--no-prompt-tokens-details", "--fault", "no_metrics") as engine:
        done = quick(tmp_path, f"URL={engine.url}", SMALLEST)
    assert done.status == 0
    assert "cold not shown." in done.out and "cold proven" not in done.out
    assert "Which tier served is not shown" in done.out
    assert "--enable-prompt-tokens-details" in done.out
    assert not re.search("LMCache|Mooncake", done.out)
    assert [one["cold_proof"] for one in done.stats] == ["not shown", None]


@pytest.mark.slow
def test_a_warm_endpoint_that_ignores_salts_is_still_cold_for_new_text(tmp_path: Path) -> None:
    """A cache that ignores salts and resets, asked twice; and a model that takes 1,500 tokens."""
    faults = [word for fault in BLIND_AND_SALTLESS for word in ("--fault", fault)]
    flags = (*faults, "--max-model-len", "1500")
    with kvsim(*SLOWLY, *flags) as engine:
        runs = [quick(tmp_path, f"URL={engine.url}", SMALLEST) for _ in range(2)]
    for done in runs:
        assert done.status == 0 and "cold proven." in done.out
        assert "cache_salt is ignored here" in done.out
        assert all(one["salt_way"] == "prompt_head" for one in done.of("run"))
        cold = [one for one in done.of("request") if one["run_id"] == done.of("run")[0]["run_id"]]
        assert len(cold) == 8
        assert all(one["cached_tokens"] < 64 for one in cold), "no more than template and salt"
        assert all(one["prompt_tokens"] + one["output_tokens"] <= 1500 for one in cold)
        assert "PD TRANSFER" not in done.out
    plans = {one["plan_sha256"] for done in runs for one in done.of("run")}
    assert len(plans) == 2, "the text of every quick look is new"


@pytest.mark.parametrize(
    ("flags", "settings", "complaint"),
    [
        (("--api-key", "k"), (), "401: needs a key: --api-key-file FILE (make quick: KEY_FILE="),
        ((), ("MODEL=other",), "model 'other' is not served here; served: sim"),
        (("--max-model-len", "300"), (), "the model takes 300 tokens: too few"),
        (("--fault", "http_error=503,1"), (), "was not answered: 2 of 2 planned requests failed"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    tmp_path: Path, flags: tuple[str, ...], settings: tuple[str, ...], complaint: str
) -> None:
    with kvsim(*flags) as engine:
        done = quick(tmp_path, f"URL={engine.url}", *settings)
    assert (done.status, done.out) == (2, "")
    lines = [line for line in done.err.splitlines() if not line.startswith(("make", "quick: http"))]
    said = [line for line in done.err.splitlines() if complaint in line]
    assert len(said) == 1 and said[0].startswith("quick: ")
    assert [line for line in lines if line not in said] == []


def test_nobody_there_and_no_url(tmp_path: Path) -> None:
    done = quick(tmp_path, "URL=http://127.0.0.1:9")
    assert (done.status, done.out) == (2, "") and "is the server running?" in done.err
    done = quick(tmp_path)
    assert (done.status, done.out) == (2, "") and "say make quick URL=" in done.err


def test_a_key_reaches_the_server_and_no_record(tmp_path: Path) -> None:
    """Only as far as the first question: a server with a key that is right has nothing to say."""
    key = tmp_path / "key $(x)"
    key.write_text("s3cret\n", encoding="utf-8")
    with kvsim("--api-key", "s3cret", "--max-model-len", "300") as engine:
        done = quick(tmp_path, f"URL={engine.url}", f"KEY_FILE={key}")
    assert "takes 300 tokens" in done.err, "it was let in"


def test_the_script_is_executable() -> None:
    assert (ROOT / "quick" / "run.sh").stat().st_mode & 0o111
