"""The records that the tools exchange: one JSON object a line, typed at the door.

These types and `schemas/*.schema.json` are one contract: `make docs` writes the schemas from the
types, and a test fails when the two differ. Facts are integers in nanoseconds on one monotonic
clock (`*_ns`, relative to the run's start), derived durations are float seconds (`*_s`), rates
`*_rps` and `*_tps`, ratios 0 to 1. What is not known is `null`, never 0.

Stream grammar: `run request* server_metrics* end`, and several such streams may follow one
another; a plan is `plan planned*`. A stream without `end` is not finished.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

SCHEMA_VERSION: Final = 1

Version = Literal[1]

Arm = Literal["cold", "hit", "no_reuse"]
Tier = Literal["local", "store", "remote"]
Stratum = Literal["leader", "follower", "unique", "sentinel"]
Status = Literal[
    "ok", "http_error", "stream_error", "truncated", "timeout", "connect_error", "cancelled"
]
Severity = Literal["info", "warning", "invalid"]
Code = Literal[
    "contaminated",
    "lost",
    "pd_transfer",
    "token_first",
    "plan_differs",
    "unequal_work",
    "not_isolated",
    "client_limited",
    "foreign_traffic",
    "restarted",
    "drift",
    "overload",
    "warmup_unstable",
    "barrier_unknown",
    "stream_buffered",
    "cached_tokens_not_reported",
    "cold_not_shown",
    "tier_not_shown",
    "salt_ignored",
    "stamps_mixed",
    "calibration_unfit",
    "uncalibrated",
    "errors",
    "incomplete",
    "answers_differ",
    "imported",
    "simulated",
]
DiagnosisCode = Literal[
    "unreachable",
    "unfit",
    "engine_dead",
    "prompts_refused",
    "model_differs",
    "version_differs",
    "precision_differs",
    "context_differs",
    "block_size_differs",
    "hash_algorithm_differs",
    "connector_differs",
    "chunk_differs",
    "metrics_missing",
    "usage_missing",
    "cached_tokens_not_reported",
    "null_means_zero",
    "pd_transfer",
    "prefix_caching_off",
    "no_local_hit",
    "context_short",
    "smallest_hit",
    "dated_template",
    "no_connector",
    "nothing_saved",
    "other_store",
    "store_miss",
    "remote_miss",
    "hash_seed_differs",
    "keys_differ",
    "store_full",
    "store_without_memory",
    "barrier_unknown",
    "salt_ignored",
    "reset_missing",
    "reset_without_effect",
    "reset_refused",
    "reset_silent",
    "hidden_replicas",
    "foreign_traffic",
    "idle_timeout_short",
    "stream_buffered",
    "compressed",
    "open_files_low",
    "ports_few",
    "clock_slow",
    "client_throttled",
    "one_cpu",
    "admin_exposed",
    "simulated",
    "skipped",
    "examined",
]
Calibrated = Literal["tokenize", "token_ids", "probe", "none"]
Role = Literal["prefill", "decode", "node", "store", "proxy", "other"]
SaltWay = Literal["none", "cache_salt", "lmcache_tag", "prompt_head"]
ProbeVerdict = Literal["passed", "failed", "invalid"]
CapacityState = Literal["found", "above", "below", "stopped"]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of a stream: its first two keys are `record` and `schema`."""


class Finding(Record, frozen=True, kw_only=True):
    """Something that touches a number: what was seen, and how bad it is."""

    code: Annotated[Code, Meta(description="What kind of finding this is; enumerated.")]
    severity: Annotated[
        Severity,
        Meta(description="`invalid` withholds the verdict, `warning` stands beside the number."),
    ]
    message: Annotated[str, Meta(description="One sentence for people, with the figures in it.")]
    evidence: Annotated[
        dict[str, Any], Meta(description="The figures that the message was made from.")
    ] = {}


class Block(msgspec.Struct, frozen=True, array_like=True):
    """A link of a prompt's chain: prompts share exactly the tokens of their equal leading links."""

    id: Annotated[str, Meta(description="Name of the link; equal names are equal tokens.")]
    tokens: Annotated[int, Meta(ge=0, description="How many tokens the link is long.")]


class Plan(Record, frozen=True, kw_only=True, tag_field="record", tag="plan"):
    """Head of a plan: what the `planned` lines behind it are."""

    schema: Annotated[Version, Meta(description="Version of this record's schema.")] = (
        SCHEMA_VERSION
    )
    scenario: Annotated[
        str,
        Meta(
            description="Name of the scenario, or what it was made of instead: `trace`, "
            "`conversations`, `prompts`, `workload`."
        ),
    ]
    source: Annotated[
        str,
        Meta(description="Where the requests came from: `scenario`, or the file they stood in."),
    ] = "scenario"
    seed: Annotated[int, Meta(description="Seed from which text and order were made.")]
    repeat: Annotated[int, Meta(ge=1, description="Which repeat this plan's text is for.")] = 1
    plan_sha256: Annotated[
        str, Meta(description="Hash of the requests, before salts and sentinel nonces.")
    ]
    shape_sha256: Annotated[
        str, Meta(description="Hash of lengths, groups and order without text; equal over repeats.")
    ]
    calibrated: Annotated[
        Calibrated,
        Meta(description="How token lengths are known: `none` means estimated from characters."),
    ]
    model: Annotated[
        str | None, Meta(description="Model whose tokenizer counted; null when none did.")
    ] = None
    requests: Annotated[int, Meta(ge=0, description="Requests of the scenario itself.")]
    sentinels: Annotated[int, Meta(ge=0, description="Sentinel requests in addition to those.")]
    contexts: Annotated[
        int | None, Meta(description="Independent shared contexts; null where there are none.")
    ] = None
    order: Annotated[
        Literal["leaders-first", "shuffled", "given"],
        Meta(description="Order of dispatch; `given` for workloads made elsewhere."),
    ] = "leaders-first"
    block_tokens: Annotated[
        int | None, Meta(description="Block size that uniqueness was checked with, in tokens.")
    ] = None
    floor_tokens: Annotated[
        int | None,
        Meta(description="Tokens that every prompt shares here (the template's head)."),
    ] = None
    asked_tokens: Annotated[
        int | None, Meta(description="Sum of the prompt lengths that were asked for, in tokens.")
    ] = None
    got_tokens: Annotated[
        int | None, Meta(description="Sum of the prompt lengths as counted; null if not counted.")
    ] = None
    cold_requests: Annotated[
        int | None,
        Meta(description="Requests whose prefix no earlier request of the round gives."),
    ] = None
    note: Annotated[
        str | None, Meta(description="What a reader must know about this plan; null if nothing.")
    ] = None


class Planned(Record, frozen=True, kw_only=True, tag_field="record", tag="planned"):
    """One request of a plan."""

    schema: Annotated[Version, Meta(description="Version of this record's schema.")] = (
        SCHEMA_VERSION
    )
    index: Annotated[int, Meta(ge=0, description="Place in the order of dispatch, from 0.")]
    group: Annotated[
        str | None, Meta(description="Shared context or conversation; null if unique.")
    ] = None
    stratum: Annotated[Stratum, Meta(description="Role of the request in the round.")]
    turn: Annotated[int | None, Meta(description="Turn of a conversation, from 1.")] = None
    after: Annotated[
        int | None, Meta(description="Index of the request that must have ended before this one.")
    ] = None
    at_s: Annotated[
        float | None, Meta(description="When to send, from the round's start; null: freely.")
    ] = None
    messages: Annotated[
        list[dict[str, Any]] | None, Meta(description="Chat messages; null where `prompt` is used.")
    ] = None
    prompt: Annotated[
        str | list[int] | None, Meta(description="Text or token ids; null where `messages` is.")
    ] = None
    max_tokens: Annotated[int, Meta(ge=1, description="Output tokens asked for.")]
    asked_tokens: Annotated[
        int | None, Meta(description="Prompt length that was asked for, in tokens.")
    ] = None
    prompt_tokens: Annotated[
        int | None, Meta(description="Prompt length as planned, template included; null: unknown.")
    ] = None
    new_tokens: Annotated[
        int | None, Meta(description="Tokens it adds to the prefix tree in plan order.")
    ] = None
    blocks: Annotated[
        list[Block], Meta(description="The prompt as a chain of [id, tokens] links.")
    ] = []
    nonce: Annotated[
        str | None,
        Meta(description="Placeholder in a sentinel's text that is made new in every round."),
    ] = None
    body: Annotated[
        dict[str, Any], Meta(description="Further fields of the request's JSON body.")
    ] = {}


class Step(Record, frozen=True, kw_only=True):
    """One thing that kvclear did."""

    what: Annotated[str, Meta(description="What was done, such as `reset prefix cache`.")]
    where: Annotated[str, Meta(description="URL or command, without credentials.")]
    tier: Annotated[
        str | None, Meta(description="Tier it acts on: engine, lmcache, store; null: other.")
    ] = None
    answer: Annotated[str | None, Meta(description="What was answered, shortened.")] = None
    ok: Annotated[bool | None, Meta(description="True, false, or null where no answer tells.")]
    seconds: Annotated[float, Meta(ge=0, description="How long the step took.")]
    advice: Annotated[str | None, Meta(description="What to do about a failure.")] = None


class Proof(Record, frozen=True, kw_only=True):
    """One look at whether a tier is empty."""

    tier: Annotated[str, Meta(description="Tier that was looked at: engine or store.")]
    where: Annotated[str, Meta(description="Endpoint that was asked.")]
    how: Annotated[
        str, Meta(description="`canary`, `key count`, `our keys`, or `salt probe: WAY`.")
    ]
    control_tokens: Annotated[
        int | None,
        Meta(description="Tokens that the engine reported as hit before; null: no control."),
    ] = None
    after_tokens: Annotated[
        int | None, Meta(description="Tokens hit after, or under another salt; null: not told.")
    ] = None
    keys_before: Annotated[int | None, Meta(description="Keys in the store before.")] = None
    keys_after: Annotated[int | None, Meta(description="Keys in the store after.")] = None
    verified: Annotated[bool | None, Meta(description="True, false, or null: cannot be told.")]
    reason: Annotated[str, Meta(description="Why, in a sentence.")]


class Cleared(Record, frozen=True, kw_only=True, tag_field="record", tag="cleared"):
    """What kvclear did and what it proved."""

    schema: Annotated[Version, Meta(description="Version of this record's schema.")] = (
        SCHEMA_VERSION
    )
    tool_version: Annotated[str, Meta(description="Version of kvclear.")]
    cleared_at: Annotated[str, Meta(description="Wall-clock time of the end, RFC 3339.")]
    dry_run: Annotated[bool, Meta(description="True if nothing was sent that changes a cache.")] = (
        False
    )
    steps: Annotated[list[Step], Meta(description="What was done, in order.")]
    proofs: Annotated[list[Proof], Meta(description="What was looked at, in order.")]
    verified: Annotated[
        bool | None, Meta(description="True: empty, shown. False: not empty. Null: not shown.")
    ]
    reason: Annotated[str, Meta(description="Why `verified` is what it is.")]
    engines: Annotated[
        list[str], Meta(description="Engines that were cleared, KIND=URL, without credentials.")
    ] = []
    simulated: Annotated[
        bool, Meta(description="True if any of the engines is kvsim, and no engine.")
    ] = False
    floor_tokens: Annotated[
        int | None, Meta(description="Tokens that every prompt shares here.")
    ] = None
    elapsed_s: Annotated[float, Meta(ge=0, description="Time from start to end.")] = 0.0


class Warmup(Record, frozen=True, kw_only=True):
    """What the warm-up did."""

    passes: Annotated[int, Meta(ge=0, description="Passes that were run.")]
    settled: Annotated[
        bool | None, Meta(description="Whether TTFTs settled; null with fewer than two passes.")
    ]


class Stage(Record, frozen=True, kw_only=True):
    """A stretch of an open loop with a rate of its own."""

    duration_s: Annotated[float, Meta(gt=0, description="How long it lasts.")]
    from_rps: Annotated[float, Meta(ge=0, description="Arrivals per second at its start.")]
    to_rps: Annotated[
        float, Meta(ge=0, description="At its end; a linear ramp where it differs from the start.")
    ]


class Arrival(Record, frozen=True, kw_only=True):
    """How requests arrive."""

    kind: Annotated[
        Literal["serial", "closed", "constant", "poisson", "gamma", "planned"],
        Meta(description="`serial` and `closed` wait for answers; the others follow a schedule."),
    ]
    concurrency: Annotated[
        int | None, Meta(description="Requests in flight at most; null: no cap.")
    ] = None
    rate_rps: Annotated[float | None, Meta(description="Asked arrivals per second.")] = None
    burstiness: Annotated[
        float | None,
        Meta(
            description="Shape of the gamma distribution of the gaps: 1 is Poisson, below it "
            "arrivals come in bursts; null: another kind."
        ),
    ] = None
    stages: Annotated[
        list[Stage] | None, Meta(description="Rates one after another; null: one rate throughout.")
    ] = None
    duration_s: Annotated[
        float | None, Meta(description="No request is due, or begun, after it; null: no limit.")
    ] = None
    think_s: Annotated[
        float | None,
        Meta(description="Pause between a turn's end and the next turn; null: none."),
    ] = None
    stagger_s: Annotated[
        float | None,
        Meta(description="Between the first requests of a closed loop's slots; null: none."),
    ] = None


class Host(Record, frozen=True, kw_only=True):
    """The machine that sent the load."""

    name: Annotated[str, Meta(description="Host name.")]
    system: Annotated[str, Meta(description="Operating system and its version.")]
    python: Annotated[str, Meta(description="Python's version.")]
    cpus: Annotated[int, Meta(description="Processors that the process may use.")]


class Until(Record, frozen=True, kw_only=True):
    """Repeats by Stein's two-stage rule: the first ones fix how many there are in all."""

    half_width: Annotated[
        float, Meta(gt=0, lt=1, description="Wished half-width of the TTFT ratio; 0.05 is 5 %.")
    ]
    first_repeats: Annotated[
        int, Meta(ge=3, description="Repeats of the first stage, whose spread fixes the total.")
    ]


class CalibratedLoad(Record, frozen=True, kw_only=True):
    """One load of a calibration: how wrong the client was under it, by the server's own log."""

    streams: Annotated[
        int | None, Meta(description="Streams at once; null: requests arrived at a rate.")
    ] = None
    rate_rps: Annotated[
        float | None, Meta(description="Arrivals per second; null: a closed loop.")
    ] = None
    workers: Annotated[int, Meta(ge=1, description="Processes that sent.")] = 1
    requests: Annotated[int, Meta(ge=1, description="Requests of one run.")]
    runs: Annotated[int, Meta(ge=1, description="Runs; every figure is the median over them.")]
    chunks_rps: Annotated[float, Meta(ge=0, description="Chunks per second that were received.")]
    ttft_s: Annotated[float, Meta(ge=0, description="TTFT that the server was told to give.")]
    itl_s: Annotated[float, Meta(ge=0, description="Time between chunks that it was told to.")]
    ttft_error_p50_s: Annotated[float, Meta(description="Median of TTFT as told less the truth.")]
    ttft_error_p99_s: Annotated[
        float, Meta(ge=0, description="99th percentile of the absolute TTFT error.")
    ]
    gap_error_p99_s: Annotated[
        float, Meta(ge=0, description="99th percentile of the absolute error of chunk gaps.")
    ]
    tpot_error_p99_s: Annotated[
        float, Meta(ge=0, description="99th percentile of the absolute TPOT error.")
    ]
    lateness_p50_s: Annotated[float, Meta(description="Median of sent less scheduled.")]
    lateness_p99_s: Annotated[float, Meta(description="99th percentile of it.")]
    cpu_per_100k_s: Annotated[
        float, Meta(ge=0, description="Processor seconds of the client per 100,000 chunks.")
    ]
    cpu_ratio: Annotated[float, Meta(ge=0, description="Its processor time by wall time.")]
    merged_share: Annotated[
        float, Meta(ge=0, description="Chunks that shared a read with an earlier one, of all.")
    ]
    stamp_source: Annotated[
        Literal["kernel", "user", "mixed"], Meta(description="Who took the receive stamps.")
    ]


class Calibration(Record, frozen=True, kw_only=True, tag_field="record", tag="calibration"):
    """What the client alone does on one host, against a server that is not the limit."""

    schema: Annotated[Version, Meta(description="Version of this record's schema.")] = (
        SCHEMA_VERSION
    )
    made_at: Annotated[str, Meta(description="Wall clock when it was made, RFC 3339.")]
    host: Annotated[Host, Meta(description="Machine that it was made on.")]
    processor: Annotated[str | None, Meta(description="Its processor; null: not told.")] = None
    load_average: Annotated[
        float | None, Meta(description="Load of the machine just before; null: not told.")
    ] = None
    tool_version: Annotated[str, Meta(description="Version of kvload.")]
    server: Annotated[str, Meta(description="Server that the client was held against.")]
    loads: Annotated[list[CalibratedLoad], Meta(description="What was measured, load by load.")]


class Run(Record, frozen=True, kw_only=True, tag_field="record", tag="run"):
    """Head of one round: everything that could change a number."""

    schema: Annotated[Version, Meta(description="Version of this record's schema.")] = (
        SCHEMA_VERSION
    )
    run_id: Annotated[str, Meta(description="Identity of this round's stream.")]
    experiment_id: Annotated[str, Meta(description="Joins the rounds of one experiment.")]
    name: Annotated[str, Meta(description="Label; the scenario's name by default.")]
    scenario: Annotated[str, Meta(description="Scenario that was run.")]
    arm: Annotated[Arm, Meta(description="Arm of the experiment: `cold`, `hit` or `no_reuse`.")]
    tier: Annotated[Tier, Meta(description="Tier under test.")]
    repeat: Annotated[int, Meta(ge=1, description="Which repeat, from 1.")] = 1
    round_num: Annotated[int, Meta(ge=0, description="Round from 1; 0 for no_reuse.")]
    rounds: Annotated[int | None, Meta(description="Rounds of the repeat; null: not known.")] = None
    until: Annotated[
        Until | None,
        Meta(description="How the number of repeats is decided; null: it was fixed beforehand."),
    ] = None
    position: Annotated[
        str | None,
        Meta(description="Where a no_reuse round stood: `before` or `after` cold and hit."),
    ] = None
    endpoint_url: Annotated[str, Meta(description="Endpoint as given, without credentials.")]
    api: Annotated[Literal["chat", "completions"], Meta(description="API that was used.")] = "chat"
    model: Annotated[str | None, Meta(description="Model asked for.")] = None
    engine: Annotated[str | None, Meta(description="Engine as found; null: not told.")] = None
    engine_version: Annotated[str | None, Meta(description="Its version as found.")] = None
    simulated: Annotated[bool, Meta(description="True if the endpoint is kvsim.")] = False
    plan_sha256: Annotated[str, Meta(description="Hash of the plan before salts and nonces.")]
    shape_sha256: Annotated[str, Meta(description="Hash of the plan's shape without its text.")]
    seed: Annotated[int | None, Meta(description="Seed of the plan; null: made elsewhere.")] = None
    calibrated: Annotated[
        Calibrated, Meta(description="How the plan's token lengths are known.")
    ] = "none"
    requests: Annotated[int, Meta(ge=0, description="Planned requests, sentinels excluded.")] = 0
    sentinels: Annotated[int, Meta(ge=0, description="Planned sentinels.")] = 0
    contexts: Annotated[int | None, Meta(description="Independent shared contexts.")] = None
    arrival: Annotated[Arrival, Meta(description="How requests arrive.")]
    order: Annotated[str, Meta(description="Order of dispatch.")] = "leaders-first"
    salt: Annotated[str | None, Meta(description="Salt of the namespace; null: none.")] = None
    salt_way: Annotated[SaltWay, Meta(description="How the salt is sent.")] = "none"
    isolation: Annotated[
        Cleared | None, Meta(description="Record of kvclear, from --isolation; null: none given.")
    ] = None
    block_tokens: Annotated[
        int | None, Meta(description="Engine's block size; null: not known.")
    ] = None
    chunk_tokens: Annotated[
        int | None, Meta(description="LMCache's chunk size; null: not known or not used.")
    ] = None
    warmup: Annotated[Warmup | None, Meta(description="Warm-up; null if none was run.")] = None
    calibration: Annotated[
        Calibration | None,
        Meta(description="What the client alone does on its host, from --calibration; null: none."),
    ] = None
    config: Annotated[dict[str, Any], Meta(description="Flags and config as they were used.")] = {}
    config_sha256: Annotated[str | None, Meta(description="Hash of `config`.")] = None
    shard: Annotated[str | None, Meta(description="I/N of a fleet; null: not sharded.")] = None
    workers: Annotated[int, Meta(ge=1, description="Processes that sent the requests.")] = 1
    tool_version: Annotated[
        str, Meta(description="Version of kvload; of an import the tool that measured.")
    ]
    host: Annotated[
        Host | None, Meta(description="Machine that sent the load; null: an import, not told.")
    ]
    started_at: Annotated[str, Meta(description="Wall clock at 0 ns of this run, RFC 3339.")]
    clock: Annotated[
        str, Meta(description="Clock of the stamps; one for all records of the run.")
    ] = "perf_counter_ns"


class Request(Record, frozen=True, kw_only=True, tag_field="record", tag="request"):
    """One request: when, how much, and how it ended."""

    schema: Annotated[Version, Meta(description="Version of this record's schema.")] = (
        SCHEMA_VERSION
    )
    run_id: Annotated[str, Meta(description="Round that it belongs to.")]
    index: Annotated[int, Meta(ge=0, description="Place in the plan.")]
    request_id: Annotated[str, Meta(description="Sent as X-Request-Id.")]
    server_request_id: Annotated[
        str | None, Meta(description="`id` of the answer; null: none came.")
    ] = None
    group: Annotated[str | None, Meta(description="Shared context or conversation.")] = None
    stratum: Annotated[Stratum, Meta(description="Role of the request in the round.")]
    turn: Annotated[int | None, Meta(description="Turn of a conversation.")] = None
    endpoint_url: Annotated[str, Meta(description="Endpoint that it was sent to.")]
    scheduled_ns: Annotated[int, Meta(description="When it was due.")]
    start_ns: Annotated[int, Meta(description="When its task began.")]
    sent_ns: Annotated[int | None, Meta(description="First byte written; null: never written.")] = (
        None
    )
    body_sent_ns: Annotated[
        int | None, Meta(description="Last byte taken by the kernel; null: not all was.")
    ] = None
    headers_ns: Annotated[int | None, Meta(description="Answer's headers complete.")] = None
    first_byte_ns: Annotated[int | None, Meta(description="First byte of the answer.")] = None
    first_chunk_ns: Annotated[
        int | None, Meta(description="First event with choices, even an empty one.")
    ] = None
    first_token_ns: Annotated[
        int | None,
        Meta(description="First non-empty content, reasoning or tool delta, or token id."),
    ] = None
    first_content_ns: Annotated[
        int | None, Meta(description="First non-empty content, reasoning excluded.")
    ] = None
    second_token_ns: Annotated[
        int | None, Meta(description="Second event that carries tokens.")
    ] = None
    last_token_ns: Annotated[int | None, Meta(description="Last event that carries tokens.")] = None
    end_ns: Annotated[int, Meta(description="Answer complete, or given up.")]
    chunk_ns: Annotated[
        list[int] | None, Meta(description="Stamp of each event that carries tokens.")
    ] = None
    stamp_source: Annotated[
        Literal["kernel", "user"],
        Meta(description="`kernel`: receive stamps of the socket; `user`: taken on reading."),
    ] = "user"
    merged_reads: Annotated[
        int | None, Meta(description="Token events that shared a read with an earlier one.")
    ] = None
    reads: Annotated[
        int | None, Meta(description="Reads from the socket while the answer came.")
    ] = None
    connection: Annotated[
        Literal["reused", "new"] | None,
        Meta(description="Kind of connection; null: none could be made."),
    ] = None
    retries: Annotated[int, Meta(ge=0, description="First attempts that were reset.")] = 0
    body_bytes: Annotated[int, Meta(ge=0, description="Size of the request's body.")] = 0
    prompt_tokens: Annotated[
        int | None, Meta(description="As the server counted; null: not reported.")
    ] = None
    output_tokens: Annotated[
        int | None, Meta(description="Completion tokens; null: not known.")
    ] = None
    cached_tokens: Annotated[
        int | None, Meta(description="As the server reported; null: not reported.")
    ] = None
    created_cache_tokens: Annotated[
        int | None, Meta(description="Tokens newly put into the cache, where reported.")
    ] = None
    token_source: Annotated[
        Literal["usage", "token_ids", "chunks"] | None,
        Meta(description="Where output_tokens comes from."),
    ] = None
    usage: Annotated[dict[str, Any] | None, Meta(description="The answer's usage, verbatim.")] = (
        None
    )
    server_timings: Annotated[
        dict[str, Any] | None, Meta(description="The answer's own timings, verbatim.")
    ] = None
    cached_local_tokens: Annotated[
        int | None, Meta(description="Hit in the engine's own cache; null: not told.")
    ] = None
    cached_remote_tokens: Annotated[
        int | None, Meta(description="Loaded through a connector; null: not told.")
    ] = None
    new_tokens: Annotated[
        int | None, Meta(description="What it adds to the prefix tree in plan order.")
    ] = None
    floor_tokens: Annotated[
        int | None, Meta(description="Tokens that every prompt shares here.")
    ] = None
    ideal_in_round_lo: Annotated[
        int | None, Meta(description="Reusable from donors that had finished when it was sent.")
    ] = None
    ideal_in_round_hi: Annotated[
        int | None, Meta(description="Reusable from donors sent before its first token.")
    ] = None
    ideal_prior_tokens: Annotated[
        int | None, Meta(description="Reusable from earlier rounds of the namespace.")
    ] = None
    status: Annotated[Status, Meta(description="How it ended.")]
    http_status: Annotated[int | None, Meta(description="HTTP status; null: none came.")] = None
    error: Annotated[str | None, Meta(description="What went wrong; null if ok.")] = None
    finish_reason: Annotated[str | None, Meta(description="As the server said.")] = None
    output_sha256: Annotated[
        str | None, Meta(description="Hash of the output's text; null: no output.")
    ] = None
    output_text: Annotated[str | None, Meta(description="The output, with --keep-output only.")] = (
        None
    )
    logprobs: Annotated[
        list[Any] | None, Meta(description="As the server said, with --keep-output only.")
    ] = None


class ServerMetrics(Record, frozen=True, kw_only=True, tag_field="record", tag="server_metrics"):
    """What one metrics endpoint counted during the round."""

    schema: Annotated[Version, Meta(description="Version of this record's schema.")] = (
        SCHEMA_VERSION
    )
    run_id: Annotated[str, Meta(description="Round that it belongs to.")]
    url: Annotated[str, Meta(description="Where it was read, without credentials.")]
    role: Annotated[Role, Meta(description="What stands behind the URL.")]
    endpoint_url: Annotated[
        str | None, Meta(description="Endpoint whose own metrics these are; null: another server.")
    ] = None
    counters: Annotated[
        dict[str, float | None],
        Meta(
            description="Changes over the round under engine-neutral names (kvengine.counters); "
            "null: this server does not count it."
        ),
    ] = {}
    deltas: Annotated[
        dict[str, float], Meta(description="Changes of the server's own counters, by series.")
    ] = {}
    gauges: Annotated[
        dict[str, list[float]],
        Meta(description="Gauges sampled at 1 Hz off the measured path, by neutral name."),
    ] = {}
    start_before_s: Annotated[
        float | None, Meta(description="Process start time before the round, Unix seconds.")
    ] = None
    start_after_s: Annotated[
        float | None, Meta(description="Process start time after the round, Unix seconds.")
    ] = None
    fell: Annotated[
        list[str], Meta(description="Counters that fell or vanished: a restart, or a death.")
    ] = []
    error: Annotated[str | None, Meta(description="Why it could not be read; null if it was.")] = (
        None
    )


class Barrier(Record, frozen=True, kw_only=True):
    """Whether the engines came to rest after the round."""

    state: Annotated[
        Literal["quiet", "unknown", "skipped"],
        Meta(description="`unknown`: rest could not be seen; `skipped`: the round was stopped."),
    ]
    waited_s: Annotated[float, Meta(ge=0, description="How long was waited.")]
    reason: Annotated[str | None, Meta(description="What was looked at, or missing.")] = None


class Reset(Record, frozen=True, kw_only=True):
    """The reset of the engine's own cache between cold and hit (tier store)."""

    answers: Annotated[list[str], Meta(description="What each node answered.")]
    retries: Annotated[int, Meta(ge=0, description="Answers of `busy` that were repeated.")]
    ok: Annotated[bool | None, Meta(description="Null: the answer does not tell.")]


class ClientHealth(Record, frozen=True, kw_only=True):
    """How well the client itself kept up."""

    lateness_p50_s: Annotated[
        float | None,
        Meta(
            description="Median of sent less due and free to go: waiting for a slot or for an "
            "earlier turn is the load's and not the client's."
        ),
    ] = None
    lateness_p99_s: Annotated[float | None, Meta(description="99th percentile of it.")] = None
    loop_lag_p99_s: Annotated[
        float | None, Meta(description="99th percentile of the event loop's lag.")
    ] = None
    loop_lag_max_s: Annotated[float | None, Meta(description="Largest lag of the loop.")] = None
    stamp_lag_p99_s: Annotated[
        float | None, Meta(description="99th percentile of user less kernel stamp.")
    ] = None
    cpu_s: Annotated[float | None, Meta(description="Processor time of the round.")] = None
    cpu_ratio: Annotated[
        float | None, Meta(description="Processor time by wall time of the round.")
    ] = None
    merged_reads: Annotated[int | None, Meta(description="Sum over the requests.")] = None
    asked_rps: Annotated[float | None, Meta(description="Asked arrivals per second.")] = None
    achieved_rps: Annotated[float | None, Meta(description="Sent per second.")] = None
    achieved_concurrency: Annotated[
        float | None, Meta(description="Mean number of requests in flight.")
    ] = None
    connections_opened: Annotated[int | None, Meta(description="Connections opened.")] = None


class End(Record, frozen=True, kw_only=True, tag_field="record", tag="end"):
    """Foot of a round: it says that the stream is finished, and how."""

    schema: Annotated[Version, Meta(description="Version of this record's schema.")] = (
        SCHEMA_VERSION
    )
    run_id: Annotated[str, Meta(description="Round that it belongs to.")]
    complete: Annotated[bool, Meta(description="True if every planned request was tried.")]
    reason: Annotated[str | None, Meta(description="Why it stopped early; null if complete.")] = (
        None
    )
    planned: Annotated[int, Meta(ge=0, description="Requests planned, sentinels included.")]
    sent: Annotated[int, Meta(ge=0, description="Requests of which a byte was written.")]
    ok: Annotated[int, Meta(ge=0, description="Requests that succeeded.")]
    failed: Annotated[int, Meta(ge=0, description="Requests that did not.")]
    retried: Annotated[int, Meta(ge=0, description="First attempts that were reset.")] = 0
    wall_s: Annotated[float, Meta(ge=0, description="From the first due to the last end.")]
    barrier: Annotated[Barrier | None, Meta(description="Rest after the round.")] = None
    reset: Annotated[Reset | None, Meta(description="Reset before a store hit.")] = None
    findings: Annotated[list[Finding], Meta(description="What kvload itself saw.")] = []
    client: Annotated[ClientHealth | None, Meta(description="The client's own health.")] = None


class Stat(Record, frozen=True, kw_only=True):
    """A distribution, in the unit of its name."""

    n: Annotated[int, Meta(ge=0, description="How many values.")]
    mean: Annotated[float | None, Meta(description="Arithmetic mean; null without values.")] = None
    p50: Annotated[float | None, Meta(description="Median, by linear interpolation.")] = None
    p90: Annotated[float | None, Meta(description="90th percentile.")] = None
    p95: Annotated[float | None, Meta(description="95th percentile.")] = None
    p99: Annotated[float | None, Meta(description="99th percentile; null below n = 100.")] = None
    p999: Annotated[float | None, Meta(description="99.9th; null below n = 1,000.")] = None
    min: Annotated[float | None, Meta(description="Smallest value.")] = None
    max: Annotated[float | None, Meta(description="Largest value.")] = None


class Timings(Record, frozen=True, kw_only=True):
    """The metrics of one set of requests; definitions in kvstats/metrics.py."""

    ttft_s: Annotated[Stat, Meta(description="First token less first byte sent.")]
    ttft_due_s: Annotated[Stat, Meta(description="First token less when it was due.")]
    tpot_s: Annotated[Stat, Meta(description="(last - first token) / (output tokens - 1).")]
    itl_s: Annotated[Stat, Meta(description="Gaps between neighbouring token events, pooled.")]
    e2e_s: Annotated[Stat, Meta(description="Last token less first byte sent.")]
    queue_s: Annotated[
        Stat, Meta(description="Sent less scheduled: waiting, and the client's lateness.")
    ]
    second_token_s: Annotated[Stat, Meta(description="Second less first token event.")]


class Served(Record, frozen=True, kw_only=True):
    """Prompt tokens of the round by where their KV came from, from the server's counters."""

    computed: Annotated[float | None, Meta(description="Computed by the engine.")] = None
    local: Annotated[float | None, Meta(description="From the engine's own cache.")] = None
    external: Annotated[float | None, Meta(description="Through a KV connector.")] = None


class Samples(Record, frozen=True, kw_only=True):
    """One column per fact, one row per request: what pairing and inference need."""

    index: Annotated[list[int], Meta(description="Place in the plan.")]
    group: Annotated[list[str | None], Meta(description="Shared context or conversation.")]
    stratum: Annotated[list[Stratum], Meta(description="Role in the round.")]
    ok: Annotated[list[bool], Meta(description="Whether it succeeded.")]
    ttft_s: Annotated[list[float | None], Meta(description="TTFT; null if none.")]
    ttft_due_s: Annotated[list[float | None], Meta(description="TTFT from when it was due.")]
    e2e_s: Annotated[list[float | None], Meta(description="E2E latency; null if none.")]
    tpot_s: Annotated[list[float | None], Meta(description="TPOT; null below two tokens.")]
    second_token_s: Annotated[list[float | None], Meta(description="First gap; null if none.")]
    sent_s: Annotated[list[float | None], Meta(description="When it was sent, from the start.")]
    prompt_tokens: Annotated[list[int | None], Meta(description="As the server counted.")]
    output_tokens: Annotated[list[int | None], Meta(description="Completion tokens.")]
    cached_tokens: Annotated[list[int | None], Meta(description="As the server reported.")]
    ideal_tokens: Annotated[
        list[int | None], Meta(description="Tokens that a perfect cache would have given.")
    ]
    output_sha256: Annotated[list[str | None], Meta(description="Hash of the output.")]
    cached_local_tokens: Annotated[
        list[int | None],
        Meta(description="Hit in the engine's own cache; empty where no request tells."),
    ] = []
    cached_remote_tokens: Annotated[
        list[int | None],
        Meta(description="Loaded through a connector; empty where no request tells."),
    ] = []
    total: Annotated[
        int, Meta(ge=0, description="Rows before sampling; more than the columns' length if so.")
    ]


class Conservation(Record, frozen=True, kw_only=True):
    """Tokens that a clean cold round must have computed, against what was computed."""

    tree_tokens: Annotated[int | None, Meta(description="Size of the prompts' prefix tree.")] = None
    computed_tokens: Annotated[
        float | None, Meta(description="Sum of prompt less cached tokens, or the counters'.")
    ] = None
    shortfall_tokens: Annotated[
        float | None, Meta(description="Tokens of the tree that nobody computed; 0 if clean.")
    ] = None
    blind_spot_tokens: Annotated[
        int | None, Meta(description="Contamination below this cannot be seen.")
    ] = None
    source: Annotated[
        Literal["requests", "counters"] | None, Meta(description="Where the figures come from.")
    ] = None


class Divergence(Record, frozen=True, kw_only=True):
    """Where two answers to one request part."""

    index: Annotated[int, Meta(ge=0, description="Place of the request in the plan.")]
    token: Annotated[
        int | None, Meta(description="Equal tokens before it; null: the tokens are not known.")
    ] = None
    character: Annotated[int, Meta(ge=0, description="Equal characters before it.")]
    before: Annotated[str, Meta(description="The last of what is equal, at most 40 characters.")]
    base: Annotated[str, Meta(description="How the base round's answer goes on, as much.")]
    other: Annotated[str, Meta(description="How this round's answer goes on, as much.")]
    kind: Annotated[
        Literal["near_tie", "wrong", "unknown"],
        Meta(
            description="`near_tie`: both tokens were as likely, and rounding decides; `wrong`: "
            "they were not; `unknown`: no log probabilities tell."
        ),
    ]
    gap: Annotated[
        float | None,
        Meta(
            description="By how much the round's own token was likelier than the other round's, "
            "in nats, the larger of both rounds; at least that much where the other is not among "
            "the candidates that were told; null: not told."
        ),
    ] = None
    shift: Annotated[
        float | None,
        Meta(description="How far a candidate's log probability lies apart in the two rounds."),
    ] = None


class Answers(Record, frozen=True, kw_only=True):
    """This round's answers against those of another round of its repeat (`--keep-output`)."""

    base_run_id: Annotated[str, Meta(description="Round that they are set against.")]
    base_arm: Annotated[Arm, Meta(description="Arm of that round.")]
    base_round_num: Annotated[int, Meta(ge=0, description="Number of that round.")]
    compared: Annotated[int, Meta(ge=0, description="Requests answered and kept in both.")]
    equal: Annotated[int, Meta(ge=0, description="Those with equal answers.")]
    near_ties: Annotated[int, Meta(ge=0, description="Those that part at a near tie.")]
    wrong: Annotated[int, Meta(ge=0, description="Those that part where none was near.")]
    unknown: Annotated[int, Meta(ge=0, description="Those of which nothing tells which it is.")]
    near_tie_nats: Annotated[float, Meta(description="Gap below which it is a near tie.")]
    divergences: Annotated[
        list[Divergence], Meta(description="The first five in plan order, the wrong ones first.")
    ] = []


class RoundStats(Record, frozen=True, kw_only=True, tag_field="record", tag="round_stats"):
    """One round, aggregated; the source documents' flat names stand beside ours."""

    schema: Annotated[Version, Meta(description="Version of this record's schema.")] = (
        SCHEMA_VERSION
    )
    run: Annotated[
        Run | list[Run], Meta(description="The round's head; a list when shards were merged.")
    ]
    scenario: Annotated[str, Meta(description="Scenario that was run.")]
    name: Annotated[str, Meta(description="Label of the scenario in reports.")]
    round_num: Annotated[int, Meta(ge=0, description="Round from 1; 0 for no_reuse.")]
    endpoint_url: Annotated[str | None, Meta(description="Endpoint of the round.")] = None
    avg_ttft: Annotated[
        float | None, Meta(description="Mean TTFT in seconds; null if nothing succeeded.")
    ]
    complete: Annotated[bool, Meta(description="False if the stream had no end or stopped early.")]
    total_requests: Annotated[int, Meta(ge=0, description="Requests, sentinels excluded.")]
    successful_requests: Annotated[int, Meta(ge=0, description="Those that succeeded.")]
    failed_requests: Annotated[int, Meta(ge=0, description="Those that did not.")]
    total_time_s: Annotated[
        float | None, Meta(description="First sent to last end; null if nothing was sent.")
    ]
    request_throughput_rps: Annotated[
        float | None, Meta(description="Successes by total_time_s.")
    ] = None
    output_throughput_tps: Annotated[
        float | None, Meta(description="Output tokens of successes by total_time_s.")
    ] = None
    total_throughput_tps: Annotated[
        float | None, Meta(description="Prompt and output tokens by total_time_s.")
    ] = None
    uncached_throughput_tps: Annotated[
        float | None, Meta(description="Computed prompt and output tokens by total_time_s.")
    ] = None
    steady_throughput_rps: Annotated[
        float | None, Meta(description="Successes per second while all slots were busy.")
    ] = None
    goodput_rps: Annotated[
        float | None, Meta(description="Requests that meet every --slo by total_time_s.")
    ] = None
    slo: Annotated[
        dict[str, float], Meta(description="The --slo limits in seconds; empty if none.")
    ] = {}
    timings: Annotated[Timings, Meta(description="All successes, sentinels excluded.")]
    strata: Annotated[
        dict[str, Timings], Meta(description="The same per stratum, sentinels included.")
    ] = {}
    status_counts: Annotated[
        dict[str, int], Meta(description="Requests by status, sentinels excluded.")
    ] = {}
    cold_requests: Annotated[
        int | None, Meta(description="Leaders and uniques among the requests.")
    ] = None
    hit_ratio: Annotated[
        float | None, Meta(description="Cached by prompt tokens of those that reported.")
    ] = None
    ideal_hit_ratio: Annotated[float | None, Meta(description="The same for a perfect cache.")] = (
        None
    )
    efficiency: Annotated[
        float | None, Meta(description="Cached by ideal tokens; null in a cold round.")
    ] = None
    tier_served: Annotated[
        Literal["computed", "local", "store", "remote", "mixed"] | None,
        Meta(description="Tier that served the cached tokens, by evidence; null: not shown."),
    ] = None
    served: Annotated[Served | None, Meta(description="Prompt tokens by source.")] = None
    leaders_served: Annotated[
        Served | None, Meta(description="The same over leaders and uniques, where told.")
    ] = None
    cold_proof: Annotated[
        Literal["proven", "contaminated", "not shown"] | None,
        Meta(description="Whether the round was cold; null for a hit round."),
    ] = None
    conservation: Annotated[
        Conservation | None, Meta(description="The rule behind cold_proof.")
    ] = None
    phases: Annotated[
        dict[str, Any] | None,
        Meta(description="Prefill, transfer and decode per request, and how they are known."),
    ] = None
    server: Annotated[list[ServerMetrics], Meta(description="Server metrics of the round.")] = []
    client: Annotated[ClientHealth | None, Meta(description="The client's own health.")] = None
    stamp_source: Annotated[
        Literal["kernel", "user", "mixed"] | None,
        Meta(description="Who took the receive stamps of the successes; null: not told."),
    ] = None
    barrier: Annotated[Barrier | None, Meta(description="Rest after the round.")] = None
    reset: Annotated[Reset | None, Meta(description="Reset before a store hit.")] = None
    samples: Annotated[
        Samples | None, Meta(description="Per request, for pairing; null in old files.")
    ] = None
    answers: Annotated[
        Answers | None,
        Meta(description="Its answers against the cold round's; null: not kept, or not both seen."),
    ] = None
    findings: Annotated[list[Finding], Meta(description="What touches this round's numbers.")] = []


class RequestStats(Record, frozen=True, kw_only=True, tag_field="record", tag="request_stats"):
    """The metrics of one request (`kvstats --per-request`); definitions in kvstats/metrics.py."""

    schema: Annotated[Version, Meta(description="Version of this record's schema.")] = (
        SCHEMA_VERSION
    )
    run_id: Annotated[str, Meta(description="Round that it belongs to.")]
    name: Annotated[str, Meta(description="Label of the scenario in reports.")]
    repeat: Annotated[int, Meta(ge=1, description="Which repeat, from 1.")]
    round_num: Annotated[int, Meta(ge=0, description="Round from 1; 0 for no_reuse.")]
    arm: Annotated[Arm, Meta(description="Arm of the experiment: `cold`, `hit` or `no_reuse`.")]
    index: Annotated[int, Meta(ge=0, description="Place in the plan.")]
    request_id: Annotated[str, Meta(description="Sent as X-Request-Id.")]
    group: Annotated[
        str | None, Meta(description="Shared context or conversation; null if unique.")
    ]
    stratum: Annotated[Stratum, Meta(description="Role of the request in the round.")]
    turn: Annotated[
        int | None, Meta(description="Turn of a conversation; null outside of conversations.")
    ]
    status: Annotated[Status, Meta(description="How it ended.")]
    ttft_s: Annotated[float | None, Meta(description="TTFT; null if no token came.")]
    ttft_due_s: Annotated[
        float | None, Meta(description="TTFT from when it was due; null if no token came.")
    ]
    tpot_s: Annotated[float | None, Meta(description="TPOT; null below two tokens.")]
    e2e_s: Annotated[
        float | None, Meta(description="Last token less first byte sent; null if no token came.")
    ]
    queue_s: Annotated[
        float | None, Meta(description="Sent less scheduled; null if it was never sent.")
    ]
    second_token_s: Annotated[
        float | None, Meta(description="Second less first token event; null below two.")
    ]
    prompt_tokens: Annotated[
        int | None, Meta(description="As the server counted; null: not reported.")
    ]
    output_tokens: Annotated[int | None, Meta(description="Completion tokens; null: not known.")]
    cached_tokens: Annotated[
        int | None, Meta(description="As the server reported; null: not reported.")
    ]
    hit_ratio: Annotated[
        float | None, Meta(description="Cached by prompt tokens; null where not reported.")
    ]
    meets_slo: Annotated[
        bool | None, Meta(description="Whether it met every --slo; null without, or not ok.")
    ]


class CapacityProbe(Record, frozen=True, kw_only=True):
    """One rate that was tried."""

    rate_rps: Annotated[float, Meta(gt=0, description="Arrivals per second.")]
    requests: Annotated[int, Meta(ge=0, description="Requests that were offered.")]
    good_requests: Annotated[int, Meta(ge=0, description="Those that kept every limit.")]
    verdict: Annotated[
        ProbeVerdict, Meta(description="`invalid`: it shows nothing, and was repeated.")
    ]
    reason: Annotated[
        str | None,
        Meta(description="`slo`, or the code of a finding, that decided; null: it passed."),
    ] = None
    efficiency: Annotated[
        float | None, Meta(description="Cached by ideal tokens; null without reuse.")
    ] = None
    total_time_s: Annotated[float | None, Meta(description="First sent to last end.")] = None
    run_id: Annotated[str, Meta(description="Round that the probe was.")]


class Capacity(Record, frozen=True, kw_only=True, tag_field="record", tag="capacity"):
    """The highest rate that kept an SLO in one repeat and arm, as kvmatrix searched for it."""

    schema: Annotated[Version, Meta(description="Version of this record's schema.")] = (
        SCHEMA_VERSION
    )
    experiment_id: Annotated[str, Meta(description="Joins the searches of one experiment.")]
    name: Annotated[str, Meta(description="Label of the scenario in reports.")]
    scenario: Annotated[str, Meta(description="Scenario that was run.")]
    repeat: Annotated[int, Meta(ge=1, description="Which repeat, from 1.")]
    arm: Annotated[Arm, Meta(description="Arm that was loaded: `no_reuse` or `hit`.")]
    endpoint_url: Annotated[str, Meta(description="Endpoint as given, without credentials.")]
    model: Annotated[str | None, Meta(description="Model asked for.")] = None
    engine: Annotated[str | None, Meta(description="Engine as found; null: not told.")] = None
    simulated: Annotated[bool, Meta(description="True if the endpoint is kvsim.")] = False
    slo: Annotated[dict[str, float], Meta(description="The limits in seconds.")]
    goodput_ratio: Annotated[
        float, Meta(gt=0, lt=1, description="Share of the offered requests that must keep them.")
    ]
    from_rps: Annotated[float, Meta(gt=0, description="Lowest rate that was to be tried.")]
    to_rps: Annotated[float, Meta(gt=0, description="Highest rate that was to be tried.")]
    precision_ratio: Annotated[
        float, Meta(gt=0, description="How far apart failed and passed rate may end.")
    ]
    state: Annotated[
        CapacityState,
        Meta(
            description="`above`: even `to_rps` passed; `below`: even `from_rps` failed; "
            "`stopped`: probes showed nothing, and there is no bracket."
        ),
    ]
    passed_rps: Annotated[
        float | None, Meta(description="Highest rate that passed; null: none did.")
    ] = None
    failed_rps: Annotated[
        float | None, Meta(description="Lowest rate that failed; null: none did.")
    ] = None
    reason: Annotated[
        str | None,
        Meta(description="Why it ended before its precision was reached; null: it was."),
    ] = None
    probes: Annotated[list[CapacityProbe], Meta(description="Every probe, in its order.")]
    findings: Annotated[list[Finding], Meta(description="What touches the probes' numbers.")] = []


class Outcome(Record, frozen=True, kw_only=True, tag_field="record", tag="outcome"):
    """What became of one scenario of a matrix, so that a report tells of those that failed."""

    schema: Annotated[Version, Meta(description="Version of this record's schema.")] = (
        SCHEMA_VERSION
    )
    name: Annotated[str, Meta(description="Label of the scenario in reports.")]
    scenario: Annotated[str, Meta(description="Scenario that was to be run.")]
    state: Annotated[
        Literal["succeeded", "failed", "not_run"],
        Meta(description="`not_run`: something is missing, and nothing of it has failed."),
    ]
    repeats: Annotated[int, Meta(ge=1, description="Repeats that were asked for.")]
    done: Annotated[int, Meta(ge=0, description="Repeats that are complete.")]
    failed_repeats: Annotated[
        list[int], Meta(description="Repeats whose last attempt failed or was interrupted.")
    ] = []
    tainted: Annotated[list[str], Meta(description="Why its figures are in doubt.")] = []
    error: Annotated[list[str], Meta(description="Last lines of the last failed log.")] = []
    log: Annotated[
        str | None, Meta(description="That log, from where make ran; null: nothing failed.")
    ] = None
    elapsed_s: Annotated[
        float, Meta(ge=0, description="What all of its attempts took, those that failed too.")
    ] = 0.0


class Spread(Record, frozen=True, kw_only=True):
    """A distribution; all null where `n` is 0."""

    n: Annotated[int, Meta(ge=0, description="How many values there are.")]
    mean: Annotated[float | None, Meta(description="Their mean.")] = None
    p50: Annotated[float | None, Meta(description="Half are at most this.")] = None
    p90: Annotated[float | None, Meta(description="Nine in ten are at most this.")] = None
    p99: Annotated[float | None, Meta(description="99 in a hundred are at most this.")] = None
    max: Annotated[float | None, Meta(description="The largest.")] = None


class KvBytes(Record, frozen=True, kw_only=True):
    """How much KV a token is."""

    name: Annotated[str, Meta(description="Model and element type, or the number as given.")]
    bytes_per_token: Annotated[
        int, Meta(ge=1, description="Bytes over all layers and tensor-parallel ranks.")
    ]
    source: Annotated[str, Meta(description="Where the number comes from.")]


class HitsAt(Record, frozen=True, kw_only=True):
    """What an LRU cache of one capacity would give."""

    name: Annotated[
        str | None, Meta(description="Capacity as somebody named it; null: a point of the curve.")
    ] = None
    capacity_tokens: Annotated[
        int | None, Meta(description="Room in whole blocks, in tokens; null: no limit.")
    ]
    capacity_bytes: Annotated[
        int | None, Meta(description="The same in bytes; null where no KV size was named.")
    ] = None
    hit_tokens: Annotated[int, Meta(ge=0, description="Prompt tokens found, in whole blocks.")]
    hit_ratio: Annotated[float, Meta(ge=0, le=1, description="Those by all prompt tokens.")]
    mean_request_hit_ratio: Annotated[
        float, Meta(ge=0, le=1, description="Mean over requests of found by prompt tokens.")
    ]


class BlockSize(Record, frozen=True, kw_only=True):
    """The workload in whole blocks of one size, as an engine reuses them."""

    block_tokens: Annotated[int, Meta(ge=1, description="Tokens of a block.")]
    cut: Annotated[
        Literal["given", "coarser", "finer", "across"],
        Meta(
            description="Against the blocks as given: those; several in one; parts of one; "
            "`across`: neither divides the other."
        ),
    ]
    blocks: Annotated[int, Meta(ge=0, description="Whole blocks of all prompts.")]
    unique_blocks: Annotated[
        int, Meta(ge=0, description="Distinct ones, sentinels' too: what a cache may come to hold.")
    ]
    ideal: Annotated[
        HitsAt, Meta(description="Without a limit; the block of a prompt's last token never hits.")
    ]
    enough_tokens: Annotated[
        int, Meta(ge=0, description="The least room that gives as much; 0 where nothing hits.")
    ]
    curve: Annotated[
        list[HitsAt], Meta(description="By capacity, two to the octave, up to what is enough.")
    ]
    named: Annotated[
        list[HitsAt], Meta(description="At each capacity that was asked for, in that order.")
    ] = []


class Analysis(Record, frozen=True, kw_only=True, tag_field="record", tag="analysis"):
    """What a workload could gain from a cache, computed before anything is sent."""

    schema: Annotated[Version, Meta(description="Version of this record's schema.")] = (
        SCHEMA_VERSION
    )
    scenario: Annotated[str, Meta(description="Name of the scenario, or of the trace.")]
    source: Annotated[
        str,
        Meta(description="Where the requests came from: `scenario`, or the file they stood in."),
    ] = "scenario"
    plan_sha256: Annotated[
        str | None, Meta(description="Hash of the plan; null where no plan was made.")
    ] = None
    requests: Annotated[int, Meta(ge=0, description="Requests, sentinels apart.")]
    sentinels: Annotated[
        int, Meta(ge=0, description="Sentinels: they take room and are in no figure.")
    ] = 0
    prompt_tokens: Annotated[int, Meta(ge=0, description="Of all prompts.")]
    output_tokens: Annotated[int, Meta(ge=0, description="Of all answers, as asked for.")]
    span_s: Annotated[
        float | None, Meta(description="First to last arrival; null where nothing is timed.")
    ] = None
    given_block_tokens: Annotated[
        int, Meta(ge=1, description="Tokens of a block in the figures up to `reuse_s`.")
    ]
    blocks: Annotated[
        int, Meta(ge=0, description="Blocks of all prompts, partial last ones included.")
    ]
    unique_blocks: Annotated[int, Meta(ge=0, description="Distinct ones.")]
    block_hit_ratio: Annotated[
        float | None,
        Meta(description="Blocks that an earlier prompt had, by blocks; null without requests."),
    ]
    token_hit_ratio: Annotated[
        float | None, Meta(description="Their tokens, by all tokens; null without requests.")
    ]
    mean_request_hit_ratio: Annotated[
        float | None,
        Meta(description="Mean over requests of their tokens by the prompt's; null without any."),
    ]
    working_set_tokens: Annotated[
        int,
        Meta(ge=0, description="Of the distinct prefixes, sentinels' too: all there is to keep."),
    ]
    working_set_bytes: Annotated[
        int | None, Meta(description="The same in bytes; null where no KV size was named.")
    ] = None
    kv: Annotated[KvBytes | None, Meta(description="KV size that bytes stand on.")] = None
    reuse_blocks: Annotated[
        Spread, Meta(description="Per whole block found again: distinct others used since.")
    ]
    reuse_s: Annotated[
        Spread | None, Meta(description="The same in seconds; null where nothing is timed.")
    ] = None
    order: Annotated[
        Literal["tail-first", "head-first"],
        Meta(description="Which end of a prompt the LRU cache gives up first."),
    ] = "tail-first"
    sizes: Annotated[list[BlockSize], Meta(description="One entry a block size.")]
    note: Annotated[
        str | None, Meta(description="What a reader must know of it; null if nothing.")
    ] = None


class Diagnosis(Record, frozen=True, kw_only=True, tag_field="record", tag="diagnosis"):
    """One thing that stands in the way of hits, or of believing them; written by kvdoctor."""

    schema: Annotated[Version, Meta(description="Version of this record's schema.")] = (
        SCHEMA_VERSION
    )
    code: Annotated[DiagnosisCode, Meta(description="What kind of thing it is; enumerated.")]
    severity: Annotated[
        Severity,
        Meta(
            description="`invalid`: figures would be false, `warning`: something cannot be "
            "measured or believed, `info`: nothing is wrong."
        ),
    ]
    where: Annotated[
        str | None, Meta(description="Server that it is about; null: this machine, or all.")
    ] = None
    seen: Annotated[str, Meta(description="What was seen, a sentence with the figures in it.")]
    means: Annotated[str, Meta(description="What it means for a measurement.")]
    change: Annotated[
        str | None,
        Meta(description="What to change: flag, variable or key; null: there is nothing to."),
    ] = None
    evidence: Annotated[
        dict[str, Any], Meta(description="The figures that `seen` was made from.")
    ] = {}
    simulated: Annotated[
        bool, Meta(description="Whether a simulator was among the servers examined.")
    ] = False
    tool_version: Annotated[str, Meta(description="Version of kvdoctor.")]


StreamRecord = Run | Request | ServerMetrics | End
PlanRecord = Plan | Planned
AnyRecord = (
    Plan
    | Planned
    | Run
    | Request
    | ServerMetrics
    | End
    | RoundStats
    | RequestStats
    | Cleared
    | Capacity
    | Calibration
    | Outcome
    | Diagnosis
    | Analysis
)
