"""Same answer? Each round's answers against those of the cold round of its repeat.

Answers are known with `kvload --keep-output` only. They wait in a temporary file until the input
has ended, so that memory does not grow with their length and the order of rounds does not matter;
beyond `KEPT` requests of a round the rest are not looked at here (their hashes still are, in
kvreport).
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import IO

import msgspec

from kvpipe.records import Answers, Divergence, Finding, Request, RoundStats, Run
from kvstats.divergence import NEAR_TIE_NATS, Kept, divergence, kept
from kvstats.findings import finding, ordered

KEPT = 20_000
IN_MEMORY = 8 << 20  # bytes
TOLD = 5  # divergences that a record carries
_RANK = {"wrong": 0, "unknown": 1, "near_tie": 2}


class _Book:
    """Where the answers of one run lie: index, hash, place and length of each."""

    def __init__(self) -> None:
        self.index = array("q")
        self.sha = array("Q")
        self.start = array("q")
        self.size = array("q")


class AnswerBook:
    """Keeps the answers of all rounds."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115
        self._end = 0
        self._runs: dict[str, _Book] = {}
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Kept).decode

    def add(self, record: Request) -> None:
        """Take a request's answer if it was kept, and is not a sentinel's."""
        if record.output_text is None or record.index >= KEPT:
            return
        if record.stratum == "sentinel" or record.status != "ok":
            return
        data = self._encode(kept(record.output_text, record.logprobs))
        book = self._runs.setdefault(record.run_id, _Book())
        book.index.append(record.index)
        book.sha.append(int((record.output_sha256 or "0" * 64)[:16], 16))
        book.start.append(self._end)
        book.size.append(len(data))
        self._file.seek(self._end)
        self._file.write(data)
        self._end += len(data)

    def close(self) -> None:
        """Drop the temporary file."""
        self._file.close()

    def compared(self, rounds: Sequence[RoundStats]) -> list[RoundStats]:
        """The rounds, those with something to be set against with `answers` and its finding."""
        if not self._runs:
            return list(rounds)
        told = [self._against(_base(one, rounds), one) for one in rounds]
        return [
            one if answers is None else _with(one, answers, _control(one, rounds, told))
            for one, answers in zip(rounds, told, strict=True)
        ]

    def _against(self, base: RoundStats | None, other: RoundStats) -> Answers | None:
        if base is None or _asked_otherwise(base, other):
            return None
        ours, theirs = self._places(base), self._places(other)
        common = sorted(ours.keys() & theirs.keys())
        if not common:
            return None
        parted = [index for index in common if ours[index][0] != theirs[index][0]]
        counts = {"near_tie": 0, "wrong": 0, "unknown": 0}
        first: dict[str, list[Divergence]] = {kind: [] for kind in _RANK}
        for index in parted:
            found = divergence(index, self._read(ours[index]), self._read(theirs[index]))
            counts[found.kind] += 1
            if len(first[found.kind]) < TOLD:
                first[found.kind].append(found)
        head = _runs(base)[0]
        return Answers(
            base_run_id=head.run_id,
            base_arm=head.arm,
            base_round_num=base.round_num,
            compared=len(common),
            equal=len(common) - len(parted),
            near_ties=counts["near_tie"],
            wrong=counts["wrong"],
            unknown=counts["unknown"],
            near_tie_nats=NEAR_TIE_NATS,
            divergences=[*chain.from_iterable(first[kind] for kind in _RANK)][:TOLD],
        )

    def _places(self, stats: RoundStats) -> dict[int, tuple[int, int, int]]:
        """Hash, place and length of each answer of a round, by index."""
        books = [self._runs[run.run_id] for run in _runs(stats) if run.run_id in self._runs]
        return {
            index: (sha, start, size)
            for book in books
            for index, sha, start, size in zip(
                book.index, book.sha, book.start, book.size, strict=True
            )
        }

    def _read(self, place: tuple[int, int, int]) -> Kept:
        _, start, size = place
        self._file.seek(start)
        return self._decode(self._file.read(size))


def _runs(stats: RoundStats) -> list[Run]:
    return stats.run if isinstance(stats.run, list) else [stats.run]


def _repeat(stats: RoundStats) -> tuple[str, str, int]:
    run = _runs(stats)[0]
    return run.experiment_id, run.name, run.repeat


def _base(stats: RoundStats, rounds: Sequence[RoundStats]) -> RoundStats | None:
    """The first cold round of the repeat; None for that round itself."""
    colds = [
        one for one in rounds if _repeat(one) == _repeat(stats) and _runs(one)[0].arm == "cold"
    ]
    first = min(colds, key=lambda one: one.round_num, default=None)
    return None if first is stats else first


def _asked_otherwise(base: RoundStats, other: RoundStats) -> bool:
    """Whether salts at the head of the prompts, or other plans, made the prompts differ."""
    one, two = _runs(base)[0], _runs(other)[0]
    if one.plan_sha256 != two.plan_sha256:
        return True
    in_prompt = "prompt_head" in (one.salt_way, two.salt_way)
    return in_prompt and (one.salt, one.arm == "no_reuse") != (two.salt, two.arm == "no_reuse")


def _control(
    stats: RoundStats, rounds: Sequence[RoundStats], told: Sequence[Answers | None]
) -> Iterator[Answers]:
    """Comparisons of this repeat in which no cache had a part: cold against cold."""
    for one, answers in zip(rounds, told, strict=True):
        if answers is not None and _repeat(one) == _repeat(stats) and _runs(one)[0].arm != "hit":
            yield answers


def _with(stats: RoundStats, answers: Answers, control: Iterator[Answers]) -> RoundStats:
    found = answers_differ(answers, _runs(stats)[0].arm, list(control))
    return msgspec.structs.replace(
        stats, answers=answers, findings=ordered([*stats.findings, found])
    )


def answers_differ(answers: Answers, arm: str, control: Sequence[Answers]) -> Finding | None:
    """Answers differ from the cold round's at temperature 0 (`--keep-output`).

    Info where each parts at a near tie, by its log probabilities; warning where nothing tells;
    invalid where a hit gave a token that was clearly less likely, and no round without hits did.
    """
    differing = answers.compared - answers.equal
    if not differing:
        return None
    noisy = sum(one.wrong for one in control)
    severity = "warning" if answers.wrong or answers.unknown else "info"
    if answers.wrong and arm == "hit" and not noisy:
        severity = "invalid"
    kinds = [
        (answers.wrong, "wrong"),
        (answers.near_ties, f"near ties (below {answers.near_tie_nats:g} nats)"),
        (answers.unknown, "not told apart (no log probabilities)"),
    ]
    parts = ", ".join(f"{count:,} {name}" for count, name in kinds if count)
    message = (
        f"{differing:,} of {answers.compared:,} answers differ from round "
        f"{answers.base_round_num}'s: {parts}; {told(answers.divergences[0], answers)}"
    )
    if answers.wrong and arm == "hit" and noisy:
        message += "; but rounds without hits differ likewise, so that it need not be the cache"
    return finding(
        "answers_differ",
        severity,  # type: ignore[arg-type]
        message,
        compared=answers.compared,
        equal=answers.equal,
        near_ties=answers.near_ties,
        wrong=answers.wrong,
        unknown=answers.unknown,
        without_hits=noisy if control else None,
    )


def told(one: Divergence, answers: Answers) -> str:
    """The divergence in words: `request 7 parts after 12 tokens, "the" -> " cat" | " dog"`."""
    after = f"{one.character} characters" if one.token is None else f"{one.token} tokens"
    gap = "" if one.gap is None else f", {one.gap:.2f} nats apart"
    return (
        f'request {one.index} parts after {after}: "{one.before}" goes on "{one.base}" in round '
        f'{answers.base_round_num} and "{one.other}" here{gap}'
    )
