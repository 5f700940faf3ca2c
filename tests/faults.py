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
    where: str = f"{HERE}test_an_answer_that_is_a_fault"

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
            where=self.where,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A server with which no run begins: status 2, one line, nothing on stdout."""

    name: str
    fault: str
    said: str
    where: str

    def row(self) -> Row:
        return Row(
            name=self.name,
            part="server",
            fault=self.fault,
            recorded="nothing: no run began",
            said=self.said,
            returned=2,
            survives="what earlier runs wrote",
            where=self.where,
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
        name="engine-death-cut",
        fault="the same, and the connection is closed",
        status="stream_error",
        http=200,
        said="EngineCore encountered an issue",
        tokens=2,
    ),
    Answered(
        name="engine-death-first",
        fault="200, and an error event before any token",
        status="stream_error",
        http=200,
        said="EngineCore encountered an issue",
    ),
    Answered(
        name="garbage",
        fault="bytes that are no text within the stream, and its end",
        status="truncated",
        http=200,
        said="the stream ended without [DONE] or a finish_reason",
        tokens=2,
    ),
    Answered(
        name="garbage-event",
        fault="an event of bytes that are no text: they are spelt out",
        status="stream_error",
        http=200,
        said="the stream holds what is not JSON",
        tokens=2,
    ),
    Answered(
        name="short-body",
        fault="500 with a body shorter than its Content-Length",
        status="http_error",
        http=500,
        said="HTTP 500 Internal Server Error",
    ),
    Answered(
        name="redirect-307",
        fault="307, which repeats a POST: not followed",
        status="http_error",
        http=307,
        said="redirected to http://127.0.0.1:1/x; give the final URL",
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

TLS = "tests/test_faults_tls.py::"
TLS_REFUSED = [
    Refused(name=name, fault=fault, said=said, where=f"{TLS}test_tls_that_is_refused")
    for name, fault, said in (
        ("tls-unsigned", "TLS with a certificate that nobody signed", "self-signed certificate"),
        ("tls-expired", "TLS with a certificate of yesterday", "certificate has expired"),
        ("tls-wrong-host", "TLS with another host's certificate", "certificate is not valid for"),
        ("tls-plain", "https to a server without TLS", "tls error"),
    )
]
TLS_ANSWERED = [
    Answered(
        name="tls-reset",
        fault="TLS: a reset after two tokens",
        status="truncated",
        http=200,
        said=f"{RESET} {BODY}",
        tokens=2,
        where=f"{TLS}test_tls_that_breaks",
    ),
    Answered(
        name="tls-garbage",
        fault="TLS: plain bytes within the encrypted stream",
        status="truncated",
        http=200,
        said="tls: wrong version number",
        tokens=2,
        where=f"{TLS}test_tls_that_breaks",
    ),
    Answered(
        name="tls-cut",
        fault="TLS: the connection ends without a farewell (close_notify)",
        status="truncated",
        http=200,
        said=BODY,
        tokens=2,
        where=f"{TLS}test_tls_that_breaks",
    ),
    Answered(
        name="tls-closed",
        fault="TLS: ended in good order after two tokens",
        status="truncated",
        http=200,
        said=f"connection closed {BODY}",
        tokens=2,
        where=f"{TLS}test_tls_that_breaks",
    ),
]
REFUSED = [
    Refused(name=name, fault=fault, said=said, where=f"{HERE}test_a_server_that_is_refused")
    for name, fault, said in (
        ("refused", "nobody listens", "connection refused"),
        ("dead-before", "/health answers 503", "/health answers 503"),
        ("silent-before", "it takes connections and never answers", "no answer"),
    )
]

CANCELLED = "`cancelled` for what was in flight; `end`, `complete` false"
ENDED = "every request that had ended"
SECOND = "every request that ended more than a second before"
CLIENT = "tests/test_faults_client.py::"
PIPE = "tests/test_faults_pipe.py::"
SIGNALLED = [
    Row(
        name=name,
        part="client",
        fault=fault,
        recorded=recorded,
        said=said,
        returned=returned,
        survives=survives,
        where=f"{CLIENT}test_a_signal_loses_no_request",
    )
    for name, fault, recorded, said, returned, survives in (
        ("sigint", "SIGINT", CANCELLED, "stopping", 130, ENDED),
        ("sigterm", "SIGTERM", CANCELLED, "stopping", 143, ENDED),
        ("sighup", "SIGHUP: the terminal goes", "no `end`", "", 129, SECOND),
        ("sigkill", "SIGKILL", "no `end`: kvstats says that the run has none", "", 137, SECOND),
        ("sigkill-parent", "SIGKILL, with `--workers`", "no `end`", "", 137, SECOND),
        (
            "sigkill-worker",
            "SIGKILL for one of several `--workers`",
            "`truncated` for what it had in flight; `end`, `complete` false, with the reason",
            "worker 2 of 2 was killed (SIGKILL)",
            1,
            f"{ENDED}, the killed worker's too",
        ),
    )
]

ELSEWHERE = [
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
        name="tls-gone",
        part="server",
        fault="TLS ends in the round: a reset, and no handshake any more",
        recorded="`connect_error` for each request that follows, and `end`",
        said="tls: wrong version number",
        returned=1,
        survives="the request before it: `ok`",
        where=f"{TLS}test_tls_that_ends_in_the_round",
    ),
    Row(
        name="sigstop",
        part="client",
        fault="SIGSTOP, a second later SIGCONT",
        recorded="every request, with how late it was; finding `client_limited`",
        said="",
        returned=0,
        survives="everything",
        where=f"{CLIENT}test_a_client_that_is_stopped_and_goes_on",
    ),
    Row(
        name="closed-stdout",
        part="client",
        fault="the reader of stdout has gone: kvplan, kvstats, kvreport, kvmatrix",
        recorded="nothing",
        said="",
        returned=141,
        survives="the input",
        where=f"{CLIENT}test_a_reader_that_has_gone",
    ),
    Row(
        name="reader-goes",
        part="client",
        fault="the reader of kvload goes in the round: nothing more is sent",
        recorded="what the reader took, in whole lines",
        said="",
        returned=141,
        survives="what was read",
        where=f"{CLIENT}test_a_reader_that_goes_in_the_round",
    ),
    Row(
        name="full-disk",
        part="client",
        fault="/dev/full as stdout: kvplan, kvstats, kvreport, kvmatrix",
        recorded="nothing could be",
        said="no space left on device",
        returned=2,
        survives="the input",
        where=f"{CLIENT}test_a_disk_that_is_full",
    ),
    Row(
        name="output-fills",
        part="client",
        fault="the output can grow no more (`ulimit -f`): kvplan, kvstats, kvreport; with"
        " `PYTHONUNBUFFERED` too",
        recorded="what fitted",
        said="file too large",
        returned=2,
        survives="the input",
        where=f"{CLIENT}test_an_output_that_fills_its_disk",
    ),
    Row(
        name="report-fills",
        part="client",
        fault="a file of `kvreport -o` can grow no more",
        recorded="the files before it, which are named",
        said="file too large",
        returned=2,
        survives="the input",
        where=f"{CLIENT}test_a_report_that_fills_its_disk",
    ),
    Row(
        name="disk-fills",
        part="client",
        fault="the file can grow no more in the round (`ulimit -f`)",
        recorded="no `end`; the last line may be half",
        said="file too large",
        returned=2,
        survives="every whole line; kvstats reads them and says what is missing",
        where=f"{CLIENT}test_a_disk_that_fills",
    ),
    *(
        Row(
            name=name,
            part="client",
            fault=f"more streams than files may be open{workers}",
            recorded="nothing: no run began",
            said="ulimit -n",
            returned=2,
            survives="what earlier runs wrote",
            where=f"{CLIENT}test_more_streams_than_files",
        )
        for name, workers in (("descriptors", ""), ("descriptors-workers", ", with `--workers`"))
    ),
    Row(
        name="descriptors-kvsim",
        part="client",
        fault="more connections to kvsim than files may be open",
        recorded="nothing of kvsim's; those that wait are served when others end",
        said="too many open files",
        returned=143,
        survives="every connection",
        where=f"{CLIENT}test_more_connections_than_files_of_a_simulator",
    ),
    *(
        Row(
            name=name,
            part="client",
            fault=f"{tool}: no memory for a line (`ulimit -v`)",
            recorded="nothing",
            said="out of memory",
            returned=2,
            survives="the input",
            where=f"{CLIENT}test_a_line_for_which_there_is_no_memory",
        )
        for name, tool in (
            ("memory-plan", "kvload, of a plan"),
            ("memory-stats", "kvstats"),
            ("memory-report", "kvreport"),
        )
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
        fault="the wall clock is set an hour forwards, then two back, in the run (libfaketime)",
        recorded="`ok`, every stamp in order and none moved",
        said="",
        returned=0,
        survives="everything",
        where="tests/test_clock.py::test_a_wall_clock_that_is_set_in_the_round_moves_no_stamp",
    ),
    Row(
        name="fleet-host-dies",
        part="pipeline",
        fault="a host of a fleet dies in the round",
        recorded="its requests until then; `round_stats`, `complete` false",
        said="ssh lost it",
        returned=1,
        survives="what every host sent, in one report",
        where="tests/fleet/test_fleet.py::"
        "test_a_host_that_dies_in_the_round_is_named_and_the_rest_reported",
    ),
    Row(
        name="stage-dies",
        part="pipeline",
        fault="kvload is killed in `kvload \\| kvstats`",
        recorded="`round_stats`, `complete` false, finding `incomplete`",
        said="has no end",
        returned=1,
        survives="the requests before it, counted",
        where=f"{PIPE}test_a_stage_that_dies",
    ),
    Row(
        name="interleaved",
        part="pipeline",
        fault="streams mixed: two shards of one round line by line in turn",
        recorded="the same `round_stats` as of one after the other",
        said="",
        returned=0,
        survives="everything",
        where=f"{PIPE}test_shards_in_one_stream",
    ),
    Row(
        name="lost-shard",
        part="pipeline",
        fault="one of two shards is missing",
        recorded="`round_stats`, `complete` false, finding `incomplete`",
        said="shard 1/2 is missing",
        returned=1,
        survives="the other shard, counted",
        where=f"{PIPE}test_shards_in_one_stream",
    ),
    Row(
        name="gzip-plan",
        part="pipeline",
        fault="a plan in gzip",
        recorded="every request",
        said="",
        returned=0,
        survives="everything",
        where=f"{PIPE}test_a_plan_in_gzip",
    ),
    Row(
        name="matrix-disk-fills",
        part="pipeline",
        fault="the disk fills under a matrix",
        recorded="nothing half: no run, no statistics",
        said="file too large",
        returned=2,
        survives="what was whole; the next `make` fetches the rest",
        where=f"{PIPE}test_a_matrix_whose_disk_fills",
    ),
]

STREAM = "schemas/examples/valid/stream.jsonl"
STATS = "schemas/examples/valid/round_stats.jsonl"
PLAN = "kvplan --scenario cold_start --requests 6 --context-tokens 64"
LOAD = "kvload --url http://127.0.0.1:9 --workload -"
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
    survives: str = ""

    def row(self) -> Row:
        broken = self.whole.count(False)
        rounds = f"{self.whole.count(True)} of {len(self.whole)} rounds whole"
        told = "a report" if self.returned < 2 else NOTHING
        return Row(
            name=self.name,
            part="pipeline",
            fault=self.fault,
            recorded=INCOMPLETE if broken else "`round_stats`" if self.whole else told,
            said=self.said,
            returned=self.returned,
            survives=self.survives or (rounds if self.whole else "the input, with the line named"),
            where=f"{PIPE}test_a_pipeline_that_is_a_fault",
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
        name="late-request",
        fault="a request after its round's end",
        command=f"sed -n 3p {STREAM} | cat {STREAM} - | kvstats",
        said="stdin:15: request: run_id 01JD3T9Q2Z-1-1 has ended before this line",
        returned=2,
    ),
    Piped(
        name="two-streams",
        fault="streams mixed: two experiments line by line in turn",
        command=f"paste -d '\\n' {STREAM} <(sed s/01JD3T9Q2Z/other/g {STREAM}) | kvstats",
        said="",
        returned=0,
        whole=(True, True, True, True),
    ),
    Piped(
        name="other-records",
        fault="streams mixed: statistics among requests",
        command=f"cat {STREAM} {STATS} | kvstats",
        said="stdin:15: round_stats: no record of a kvload stream",
        returned=2,
    ),
    Piped(
        name="requests-to-report",
        fault="streams mixed: requests among statistics",
        command=f"cat {STATS} {STREAM} | kvreport",
        said="stdin:3: a `run` record, but kvreport reads round stats",
        returned=2,
    ),
    Piped(
        name="stats-missing",
        fault="the statistics of round 2 are missing",
        command=f"sed 2d {STATS} | kvreport",
        said="round 2 (cache hit) is not there",
        returned=1,
        survives="round 1, reported",
    ),
    Piped(
        name="stats-twice",
        fault="the same statistics twice: they count once",
        command=f"kvreport {STATS} | diff - <(kvreport {STATS} {STATS}) && echo same",
        said="",
        returned=0,
        survives="everything",
    ),
    Piped(
        name="plan-missing",
        fault="a request of a plan is missing: nothing is sent",
        command=f"{PLAN} | sed 3d | {LOAD}",
        said="stdin:3: planned: index 2 where 1 is due",
        returned=2,
    ),
    Piped(
        name="plan-duplicate",
        fault="a request of a plan comes twice: nothing is sent",
        command=f"{PLAN} | sed 3p | {LOAD}",
        said="stdin:4: planned: index 1 where 2 is due",
        returned=2,
    ),
    Piped(
        name="plan-half-line",
        fault="a plan stops within a line: nothing is sent",
        command=f"{PLAN} | head -c -20 | {LOAD}",
        said="stdin:10: not a JSON line",
        returned=2,
    ),
    Piped(
        name="gzip-plan-cut",
        fault="a plan in gzip, cut short: nothing is sent",
        command=f"{PLAN} | gzip | head -c -20 | {LOAD}",
        said="kvload: stdin: the compressed data is cut short",
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
        name="gzip-broken",
        fault="gzip input that is broken",
        command=f"(gzip -c {STREAM} | head -c 400; head -c 300 /dev/zero) | kvstats",
        said="kvstats: stdin: broken compressed data",
        returned=2,
    ),
    Piped(
        name="gzip-stats",
        fault="gzip input of kvreport",
        command=f"gzip -c {STATS} | kvreport",
        said="",
        returned=0,
        survives="everything",
    ),
    Piped(
        name="gzip-stats-cut",
        fault="gzip input of kvreport cut short",
        command=f"gzip -c {STATS} | head -c -40 | kvreport",
        said="kvreport: stdin: the compressed data is cut short",
        returned=2,
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
        command=f"{PLAN} | head -n 4 | {LOAD}",
        said="plan 1 says 9 requests and has 3",
        returned=2,
    ),
]

ROWS = [
    *(row.row() for row in (*ANSWERED, *TLS_ANSWERED, *TLS_REFUSED, *REFUSED)),
    *SIGNALLED,
    *ELSEWHERE,
    *(row.row() for row in PIPED),
]


def row_named(name: str) -> Row:
    """The row that a test holds its tool to."""
    (row,) = (row for row in ROWS if row.name == name)
    return row


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
