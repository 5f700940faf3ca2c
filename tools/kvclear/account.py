"""The account of what was done: a line on stderr as it happens, and the record's steps."""

from __future__ import annotations

import time

from kvengine.urls import redact
from kvpipe.process import complain
from kvpipe.records import Proof, Step

ANSWER_CHARACTERS = 300


class Account:
    """Collects steps and proofs, and tells each to the person who waits."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.proofs: list[Proof] = []
        self._begin = time.perf_counter()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._begin

    def step(
        self,
        what: str,
        where: str,
        *,
        ok: bool | None,
        seconds: float,
        answer: str | None = None,
        tier: str | None = None,
        advice: str | None = None,
    ) -> Step:
        """Write down one thing that was done, and say it."""
        step = Step(
            what=what,
            where=redact(where),
            tier=tier,
            answer=None if answer is None else answer[:ANSWER_CHARACTERS],
            ok=ok,
            seconds=seconds,
            advice=advice,
        )
        self.steps.append(step)
        failed = "failed: " if ok is False else ""
        complain(f"{what}: {step.where}: {failed}{step.answer or ('done' if ok else 'not told')}")
        if advice:
            complain(f"  {advice}")
        return step

    def proof(self, proof: Proof) -> Proof:
        """Write down one look, and say what it showed."""
        self.proofs.append(proof)
        word = {True: "empty", False: "NOT EMPTY", None: "not shown"}[proof.verified]
        complain(f"look at the {proof.tier}: {proof.where}: {word}: {proof.reason}")
        return proof


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds up to now."""
        return time.perf_counter() - self._begin
