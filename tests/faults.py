"""The table of faults: what breaks, and what is recorded, said, returned, and what survives.

`python -m tests.faults` prints it as docs/faults.md shows it; tests/test_faults.py drives the real
executables through each row and compares with what stands here, so that neither can part from the
other. A row with `where` is driven by the test of that name.
"""

from __future__ import annotations

from dataclasses import dataclass

PARTS = {
    "server": "Server faults",
    "client": "Client faults",
    "pipeline": "Pipeline faults",
}
HERE = "tests/test_faults.py::"
AROUND = "the requests before and after it: `ok`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One fault. `said` is a piece of stderr; `returned` the status, 128 + n for a signal."""

    name: str
    part: str
    fault: str
    recorded: str
    said: str
    returned: int
    survives: str
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A fault of the second of three answers. `tokens`: how many token stamps are kept."""

    name: str
    fault: str
    status: str
    http: int | None
    said: str
    tokens: int = 0
    or_more: bool = False
    retries: int = 0

    def row(self) -> Row:
        http = "no HTTP status" if self.http is None else f"HTTP {self.http}"
        count = f"{self.tokens} or more" if self.or_more else str(self.tokens)
        kept = f", {count} tokens with their stamps" if self.tokens else ""
        tried = ", `retries` 1" if self.retries else ""
        return Row(
            name=self.name,
            part="server",
            fault=self.fault,
            recorded=f"`{self.status}`, {http}{kept}{tried}",
            said=self.said,
            returned=0 if self.status == "ok" else 1,
            survives=AROUND,
            where=f"{HERE}test_an_answer_that_is_a_fault",
        )


RESET = "connection lost (connection reset by peer)"
HEAD, BODY = "in the middle of the answer's head", "in the middle of the answer's body"

ANSWERED = [
    Answered(
        name="reset-once",
        fault="a reset before any byte, on a reused connection",
        status="ok",
        http=200,
        said="",
        tokens=4,
        retries=1,
    ),
    Answered(
        name="reset-twice",
        fault="the same, and again on the new connection",
        status="connect_error",
        http=None,
        said=f"{RESET} before the answer",
        retries=1,
    ),
    Answered(
        name="close-before",
        fault="closed before any byte, both times",
        status="connect_error",
        http=None,
        said="connection closed before the answer",
        retries=1,
    ),
    Answered(
        name="reset-in-head",
        fault="a reset within the head",
        status="truncated",
        http=None,
        said=f"{RESET} {HEAD}",
    ),
    Answered(
        name="reset-after-head",
        fault="a reset after the head",
        status="truncated",
        http=200,
        said=f"{RESET} {BODY}",
    ),
    Answered(
        name="reset-in-stream",
        fault="a reset after two tokens",
        status="truncated",
        http=200,
        said=f"{RESET} {BODY}",
        tokens=2,
    ),
    Answered(
        name="stalled-headers",
        fault="no answer at all until `--timeout`",
        status="timeout",
        http=None,
        said="no complete answer within 2 s",
    ),
    Answered(
        name="stalled-in-head",
        fault="a head that stops half-way",
        status="timeout",
        http=None,
        said="no complete answer within 2 s",
    ),
    Answered(
        name="stalled-stream",
        fault="a stream that stops after two tokens",
        status="timeout",
        http=200,
        said="no complete answer within 2 s",
        tokens=2,
    ),
    Answered(
        name="slow-drip",
        fault="a byte every 20 ms, for longer than `--timeout` (it is total, not per read)",
        status="timeout",
        http=200,
        said="no complete answer within 2 s",
    ),
    Answered(
        name="endless-stream",
        fault="tokens without an end",
        status="timeout",
        http=200,
        said="no complete answer within 2 s",
        tokens=20,
        or_more=True,
    ),
    Answered(
        name="bytewise",
        fault="a good answer in writes of one byte",
        status="ok",
        http=200,
        said="",
        tokens=4,
    ),
    Answered(
        name="truncated",
        fault="closed after two tokens",
        status="truncated",
        http=200,
        said=f"connection closed {BODY}",
        tokens=2,
    ),
    Answered(
        name="truncated-in-chunk",
        fault="closed within a chunk",
        status="truncated",
        http=200,
        said=f"connection closed {BODY}",
        tokens=2,
    ),
    Answered(
        name="no-done",
        fault="ended in good order, without `[DONE]` or finish_reason",
        status="truncated",
        http=200,
        said="the stream ended without [DONE] or a finish_reason",
        tokens=2,
    ),
    Answered(
        name="not-http",
        fault="another protocol's greeting",
        status="stream_error",
        http=None,
        said="not an HTTP/1.1 answer",
    ),
    Answered(
        name="switched-protocols",
        fault="101, which nobody asked for",
        status="stream_error",
        http=None,
        said="switched protocols",
    ),
    Answered(
        name="giant-head",
        fault="a head of 100 kB",
        status="stream_error",
        http=None,
        said="the answer's head exceeds 65536 bytes",
    ),
    Answered(
        name="bad-length",
        fault="a Content-Length that is no number",
        status="stream_error",
        http=200,
        said="content-length 'many' is not a number",
    ),
    Answered(
        name="bad-chunk-size",
        fault="a chunk size that is no number",
        status="stream_error",
        http=200,
        said="not a chunk size: b'zz'",
    ),
    Answered(
        name="bad-json",
        fault="an event that is no JSON, after two tokens",
        status="stream_error",
        http=200,
        said="the stream holds what is not JSON: {nonsense",
        tokens=2,
    ),
    Answered(
        name="html",
        fault="200 with a web page",
        status="stream_error",
        http=200,
        said="the answer has no choices: <html>Welcome</html>",
    ),
    Answered(
        name="content-type",
        fault="a good stream that calls itself text/plain",
        status="ok",
        http=200,
        said="",
        tokens=4,
    ),
    Answered(
        name="compressed",
        fault="a stream in gzip",
        status="stream_error",
        http=200,
        said="the answer is compressed (gzip) although identity was asked",
    ),
    Answered(
        name="empty",
        fault="200 without a body",
        status="stream_error",
        http=200,
        said="an empty answer",
    ),
    Answered(
        name="no-content",
        fault="204",
        status="stream_error",
        http=204,
        said="an empty answer",
    ),
    Answered(
        name="bad-request",
        fault="400 with the engine's words",
        status="http_error",
        http=400,
        said="HTTP 400 Bad Request: prompt too long",
    ),
    Answered(
        name="not-found",
        fault="404 without a body",
        status="http_error",
        http=404,
        said="HTTP 404 Not Found",
    ),
    Answered(
        name="too-many",
        fault="429 with Retry-After: not sent again, as a retry would be another load",
        status="http_error",
        http=429,
        said="HTTP 429 Too Many Requests: slow down",
    ),
    Answered(
        name="server-error",
        fault="500 without a body",
        status="http_error",
        http=500,
        said="HTTP 500 Internal Server Error",
    ),
    Answered(
        name="unavailable",
        fault="503 with a gateway's page",
        status="http_error",
        http=503,
        said="HTTP 503 Service Unavailable: <html>",
    ),
    Answered(
        name="redirect",
        fault="302 to a URL with a password: not followed, and the password not shown",
        status="http_error",
        http=302,
        said="redirected to http://127.0.0.1:1/x; give the final URL",
    ),
    Answered(
        name="engine-death",
        fault="200, two tokens, an error event (the engine died)",
        status="stream_error",
        http=200,
        said="EngineCore encountered an issue",
        tokens=2,
    ),
    Answered(
        name="given-up",
        fault="200, two tokens, finish_reason abort",
        status="stream_error",
        http=200,
        said="the server gave the answer up: finish_reason abort",
        tokens=2,
    ),
    Answered(
        name="giant-chunk",
        fault="a chunk of 100 MB without a line end",
        status="stream_error",
        http=200,
        said="the answer has no choices: xxx",
    ),
]

ELSEWHERE = [
    Row(
        name="refused",
        part="server",
        fault="nobody listens",
        recorded="nothing: no run began",
        said="connection refused",
        returned=2,
        survives="what earlier runs wrote",
        where="tests/kvload/test_run.py::test_what_cannot_run_is_one_line_and_exit_2",
    ),
    Row(
        name="gone",
        part="server",
        fault="the server goes away in the round",
        recorded="`connect_error` for each request that follows, and `end`",
        said="connection refused",
        returned=1,
        survives="the request before it: `ok`",
        where=f"{HERE}test_a_server_that_goes_away",
    ),
    Row(
        name="tls-unsigned",
        part="server",
        fault="TLS with a certificate that nobody signed",
        recorded="nothing: no run began",
        said="certificate",
        returned=2,
        survives="what earlier runs wrote",
        where=f"{HERE}test_a_certificate_that_nobody_signed",
    ),
    Row(
        name="tls-plain",
        part="server",
        fault="https to a server without TLS",
        recorded="nothing: no run began",
        said="tls error",
        returned=2,
        survives="what earlier runs wrote",
        where=f"{HERE}test_tls_to_a_server_without",
    ),
    Row(
        name="dead-before",
        part="server",
        fault="/health answers 503",
        recorded="nothing: no run began",
        said="/health answers 503",
        returned=2,
        survives="what earlier runs wrote",
        where="tests/kvload/test_run.py::test_a_dead_engine_is_refused_before_anything_is_sent",
    ),
    Row(
        name="sigint",
        part="client",
        fault="SIGINT",
        recorded="`cancelled` for what was in flight; `end`, `complete` false",
        said="",
        returned=130,
        survives="every request that had ended",
        where=f"{HERE}test_a_signal_loses_no_request",
    ),
    Row(
        name="sigterm",
        part="client",
        fault="SIGTERM",
        recorded="`cancelled` for what was in flight; `end`, `complete` false",
        said="",
        returned=143,
        survives="every request that had ended",
        where=f"{HERE}test_a_signal_loses_no_request",
    ),
    Row(
        name="sigkill",
        part="client",
        fault="SIGKILL",
        recorded="no `end`: kvstats says that the run has none",
        said="",
        returned=137,
        survives="every request that ended more than a second before",
        where=f"{HERE}test_a_signal_loses_no_request",
    ),
    Row(
        name="sigkill-worker",
        part="client",
        fault="SIGKILL for one of several `--workers`",
        recorded="`end`, `complete` false, with the reason",
        said="",
        returned=1,
        survives="every request that had ended, the killed worker's too",
        where="tests/kvload/test_workers.py::test_a_killed_worker_costs_nothing_that_was_measured",
    ),
    Row(
        name="sigstop",
        part="client",
        fault="SIGSTOP, then SIGCONT",
        recorded="every request, with how late it was; finding `client_limited`",
        said="",
        returned=0,
        survives="everything",
        where="tests/kvload/test_starved.py::test_a_client_that_was_stopped_says_that_it_was_late",
    ),
    Row(
        name="closed-stdout",
        part="client",
        fault="the reader of stdout has gone",
        recorded="what the reader took",
        said="",
        returned=141,
        survives="what was read",
        where="tests/test_manners.py::test_a_reader_that_has_gone_is_death_by_sigpipe",
    ),
    Row(
        name="full-disk",
        part="client",
        fault="/dev/full as stdout",
        recorded="nothing could be",
        said="no space left on device",
        returned=2,
        survives="nothing: there is no place",
        where="tests/test_manners.py::test_a_full_disk_is_said",
    ),
    Row(
        name="disk-fills",
        part="client",
        fault="the file can grow no more in the round (`ulimit -f`)",
        recorded="no `end`; the last line may be half",
        said="file too large",
        returned=2,
        survives="every whole line; kvstats reads them and says what is missing",
        where=f"{HERE}test_a_disk_that_fills",
    ),
    Row(
        name="descriptors",
        part="client",
        fault="more streams than files may be open",
        recorded="nothing: no run began",
        said="ulimit -n",
        returned=2,
        survives="what earlier runs wrote",
        where="tests/kvload/test_workers.py"
        "::test_more_streams_than_files_is_said_before_anything_is_sent",
    ),
    Row(
        name="memory",
        part="client",
        fault="no memory for an answer of 200 MB (`ulimit -v`)",
        recorded="`truncated`; `end`",
        said="cannot allocate memory",
        returned=1,
        survives="the request before it: `ok`; later ones may fail alike",
        where=f"{HERE}test_memory_that_ends",
    ),
    Row(
        name="wall-clock",
        part="client",
        fault="the wall clock is stepped: tested in the stamps, the executable is not stepped",
        recorded="stamps on a clock that is never set",
        said="",
        returned=0,
        survives="everything",
        where="tests/kvload/test_sockets.py::test_a_jump_of_the_wall_clock_is_looked_at_again",
    ),
    Row(
        name="stage-dies",
        part="pipeline",
        fault="kvload is killed in `kvload \\| kvstats`",
        recorded="`round_stats`, `complete` false, finding `incomplete`",
        said="has no end",
        returned=1,
        survives="the requests before it, counted",
        where=f"{HERE}test_a_stage_that_dies",
    ),
    Row(
        name="interleaved",
        part="pipeline",
        fault="shards of one round line by line in turn",
        recorded="the same `round_stats` as of one after the other",
        said="",
        returned=0,
        survives="everything",
        where="tests/kvstats/test_streams.py::test_shards_may_be_interleaved",
    ),
]

STREAM = "schemas/examples/valid/stream.jsonl"
INCOMPLETE = "`round_stats`, `complete` false, finding `incomplete`"
NOTHING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piped:
    """A fault between tools. `whole`: of each round on stdout, whether it is complete."""

    name: str
    fault: str
    command: str
    said: str
    returned: int
    whole: tuple[bool, ...] = ()

    def row(self) -> Row:
        broken = self.whole.count(False)
        rounds = f"{self.whole.count(True)} of 2 rounds whole"
        return Row(
            name=self.name,
            part="pipeline",
            fault=self.fault,
            recorded=INCOMPLETE if broken else "`round_stats`" if self.whole else NOTHING,
            said=self.said,
            returned=self.returned,
            survives=rounds if self.whole else "the input, with the line named",
            where=f"{HERE}test_a_pipeline_that_is_a_fault",
        )


PIPED = [
    Piped(
        name="no-end",
        fault="the stream stops between two lines",
        command=f"head -n 10 {STREAM} | kvstats",
        said="has no end",
        returned=1,
        whole=(True, False),
    ),
    Piped(
        name="half-line",
        fault="the stream stops within a line",
        command=f"head -c -30 {STREAM} | kvstats",
        said="the last line is cut short and was left out",
        returned=1,
        whole=(True, False),
    ),
    Piped(
        name="broken-line",
        fault="a line within the stream is broken",
        command=f"sed '3s/.$//' {STREAM} | kvstats",
        said="stdin:3: not a JSON line",
        returned=2,
    ),
    Piped(
        name="missing-request",
        fault="a request is missing",
        command=f"sed 3d {STREAM} | kvstats",
        said="says 4 requests, 3 came",
        returned=1,
        whole=(False, True),
    ),
    Piped(
        name="duplicate-request",
        fault="a request comes twice",
        command=f"sed 3p {STREAM} | kvstats",
        said="stdin:4: index 1 twice in round 1",
        returned=2,
    ),
    Piped(
        name="duplicate-stream",
        fault="a stream comes twice",
        command=f"cat {STREAM} {STREAM} | kvstats",
        said="was the same file given twice?",
        returned=2,
    ),
    Piped(
        name="no-head",
        fault="the head is missing",
        command=f"sed 1d {STREAM} | kvstats",
        said="is the head of the stream missing?",
        returned=2,
    ),
    Piped(
        name="mixed-up",
        fault="a stream back to front",
        command=f"tac {STREAM} | kvstats",
        said="has no `run` line before it",
        returned=2,
    ),
    Piped(
        name="gzip",
        fault="gzip input",
        command=f"gzip -c {STREAM} | kvstats",
        said="",
        returned=0,
        whole=(True, True),
    ),
    Piped(
        name="gzip-cut",
        fault="gzip input cut short",
        command=f"gzip -c {STREAM} | head -c -40 | kvstats",
        said="the compressed data is cut short",
        returned=1,
        whole=(True, False),
    ),
    Piped(
        name="stats-cut",
        fault="kvstats' output cut short before kvreport",
        command=f"kvstats {STREAM} | head -c 300 | kvreport",
        said="kvreport: stdin:1: not a JSON line",
        returned=2,
    ),
    Piped(
        name="plan-cut",
        fault="kvplan's output cut short before kvload: nothing is sent",
        command="kvplan --scenario cold_start --requests 6 --context-tokens 64 | head -n 4"
        " | kvload --url http://127.0.0.1:9 --workload -",
        said="plan 1 says 9 requests and has 3",
        returned=2,
    ),
]

ROWS = [*(row.row() for row in ANSWERED), *ELSEWHERE, *(row.row() for row in PIPED)]


def page() -> str:
    """The tables and their counts, as Markdown."""
    counts = {part: sum(row.part == part for row in ROWS) for part in PARTS}
    of = ", ".join(f"{count} of the {part}" for part, count in counts.items())
    lines = [f"{len(ROWS)} faults: {of}.", ""]
    for part, title in PARTS.items():
        lines += [f"## {title}", ""]
        lines += ["| row | fault | recorded | said | status | survives | test |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
        lines += [_line(row) for row in ROWS if row.part == part]
        lines += [""]
    return "\n".join(lines).rstrip()


def _line(row: Row) -> str:
    said = f"`{row.said}`" if "`" not in row.said else f"`` {row.said} ``"
    test = row.where.rpartition("/")[2].replace("::", " ")
    cells = (
        *(row.name, row.fault, row.recorded, said if row.said else "", str(row.returned)),
        *(row.survives, f"`{test}`"),
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(page())
