"""`--per-request`: a line `request_stats` for each request, with the metrics of that request.

The lines wait in a temporary file until the input has ended, in input order: kvstats writes once,
whole. They are for jq and spreadsheets; kvreport reads round_stats only.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from typing import IO, Annotated, BinaryIO, Literal

from msgspec import Meta

from kvpipe.jsonl import encode
from kvpipe.records import SCHEMA_VERSION, Arm, Record, Request, Run, Status, Stratum
from kvstats.metrics import OPEN_LOOP, hit_ratio
from kvstats.slo import meets

IN_MEMORY = 8 << 20  # bytes


class RequestStats(Record, frozen=True, kw_only=True, tag_field="record", tag="request_stats"):
    """The metrics of one request; definitions in metrics.py."""

    schema: Annotated[Literal[1], Meta(description="Version of this record's schema.")] = (
        SCHEMA_VERSION
    )
    run_id: Annotated[str, Meta(description="Round's stream that it belongs to.")]
    name: Annotated[str, Meta(description="Label of the run.")]
    repeat: Annotated[int, Meta(description="Which repeat, from 1.")]
    round_num: Annotated[int, Meta(description="Round from 1; 0 for no_reuse.")]
    arm: Annotated[Arm, Meta(description="Arm of the experiment.")]
    index: Annotated[int, Meta(description="Place in the plan.")]
    request_id: Annotated[str, Meta(description="As sent.")]
    group: Annotated[str | None, Meta(description="Shared context or conversation.")]
    stratum: Annotated[Stratum, Meta(description="Role in the round.")]
    turn: Annotated[int | None, Meta(description="Turn of a conversation.")]
    status: Annotated[Status, Meta(description="How it ended.")]
    ttft_s: Annotated[float | None, Meta(description="TTFT; null if no token came.")]
    ttft_due_s: Annotated[float | None, Meta(description="TTFT from when it was due.")]
    tpot_s: Annotated[float | None, Meta(description="TPOT; null below two tokens.")]
    e2e_s: Annotated[float | None, Meta(description="To the last token.")]
    queue_s: Annotated[float | None, Meta(description="The client's lateness.")]
    second_token_s: Annotated[float | None, Meta(description="First gap.")]
    prompt_tokens: Annotated[int | None, Meta(description="As the server counted.")]
    output_tokens: Annotated[int | None, Meta(description="Completion tokens.")]
    cached_tokens: Annotated[int | None, Meta(description="As reported; null: not reported.")]
    hit_ratio: Annotated[float | None, Meta(description="Cached by prompt tokens.")]
    meets_slo: Annotated[
        bool | None, Meta(description="Whether it met every --slo; null without, or not ok.")
    ]


def request_stats(
    request: Request, run: Run, metrics: Mapping[str, float | None], slo: Mapping[str, float]
) -> RequestStats:
    """The line of one request."""
    prompt, cached = request.prompt_tokens, request.cached_tokens
    judged = bool(slo) and request.status == "ok"
    open_loop = run.arrival.kind in OPEN_LOOP
    return RequestStats(
        run_id=request.run_id,
        name=run.name,
        repeat=run.repeat,
        round_num=run.round_num,
        arm=run.arm,
        index=request.index,
        request_id=request.request_id,
        group=request.group,
        stratum=request.stratum,
        turn=request.turn,
        status=request.status,
        ttft_s=metrics["ttft_s"],
        ttft_due_s=metrics["ttft_due_s"],
        tpot_s=metrics["tpot_s"],
        e2e_s=metrics["e2e_s"],
        queue_s=metrics["queue_s"],
        second_token_s=metrics["second_token_s"],
        prompt_tokens=prompt,
        output_tokens=request.output_tokens,
        cached_tokens=cached,
        hit_ratio=None if prompt is None or cached is None else hit_ratio(cached, prompt),
        meets_slo=meets(metrics, slo, open_loop=open_loop) if judged else None,
    )


class Spool:
    """Lines kept until they may be written."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115

    def add(
        self,
        request: Request,
        run: Run,
        metrics: Mapping[str, float | None],
        slo: Mapping[str, float],
    ) -> None:
        """Keep one request's line."""
        self._file.write(encode(request_stats(request, run, metrics, slo)))

    def write_to(self, out: BinaryIO) -> None:
        """All lines, in input order."""
        self._file.seek(0)
        shutil.copyfileobj(self._file, out)

    def close(self) -> None:
        """Drop the temporary file."""
        self._file.close()
