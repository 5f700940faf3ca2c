"""The way between client and engine: connections, buffers, encodings."""

from __future__ import annotations

from collections.abc import Iterator

from kvdoctor.evidence import Evidence
from kvdoctor.rules.rule import Rule, Seen

REUSE_S = 4.0
"""Up to when a client reuses an idle connection here."""
TOKENS_PER_READ = 8.0
"""As kvstats' finding `stream_buffered`: speculative decoding sends up to five tokens an event."""
FEWEST_TOKENS = 16


def idle_timeout_short(evidence: Evidence) -> Iterator[Seen]:
    """An idle connection that is closed too soon."""
    for node in evidence.endpoints:
        closed = node.idle.closed_s if node.idle else None
        if closed is not None and closed < REUSE_S:
            yield Seen(
                where=node.where,
                seen=f"an idle connection was closed after {closed:.1f} s",
                change="raise the gateway's keep-alive above 4 s (nginx: keepalive_timeout; vLLM"
                " behind uvicorn keeps 5 s, VLLM_HTTP_TIMEOUT_KEEP_ALIVE=30 more)",
                evidence={"closed_s": closed},
            )


def stream_buffered(evidence: Evidence) -> Iterator[Seen]:
    """Many tokens in few reads."""
    for node in evidence.endpoints:
        stream = node.stream
        if stream is None or stream.tokens is None or stream.encoding:
            continue
        if stream.tokens >= FEWEST_TOKENS and stream.tokens > TOKENS_PER_READ * stream.reads:
            yield Seen(
                where=node.where,
                seen=f"{stream.tokens} streamed tokens arrived in {stream.reads} reads",
                change="turn buffering off on the way (nginx: proxy_buffering off; or the header"
                " X-Accel-Buffering: no), set vLLM's --stream-interval to 1, or measure the"
                " engine's own URL",
                evidence={"tokens": stream.tokens, "reads": stream.reads},
            )


def compressed(evidence: Evidence) -> Iterator[Seen]:
    """A stream that was compressed although nobody asked for it."""
    for node in evidence.endpoints:
        encoding = node.stream.encoding if node.stream else None
        if encoding:
            yield Seen(
                where=node.where,
                seen=f"the stream came with Content-Encoding: {encoding}, though identity was"
                " asked for",
                change="turn compression off for text/event-stream on the way (nginx: gzip off;"
                " Envoy: no compressor filter), or measure the engine's own URL",
                evidence={"encoding": encoding},
            )


RULES = (
    Rule(
        code="idle_timeout_short",
        severity="warning",
        asks="when is an idle connection closed?",
        means="Requests after a pause pay for a new connection, in round 2 more often than in"
        " round 1.",
        judge=idle_timeout_short,
    ),
    Rule(
        code="stream_buffered",
        severity="warning",
        asks="a short stream: tokens against reads, the best of three",
        means="TTFT and gaps between tokens are the buffer's, not the engine's.",
        judge=stream_buffered,
    ),
    Rule(
        code="compressed",
        severity="warning",
        asks="Content-Encoding of a stream",
        means="A compressor holds tokens back until its block is full: TTFT and gaps are its own.",
        judge=compressed,
    ),
)
