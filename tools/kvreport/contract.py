"""The schema of `--format json`: from the types, with a sentence for each of their fields.

`python -m kvreport.contract DIRECTORY` writes it (`make docs` does). The sentences stand here and
not at the types, which say the same in their docstrings, a struct at a time; a field without one
stops the making of the schema.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kvreport.conclusion import Conclusion
from kvschemas.generate import schema_of

FIELDS: dict[str, dict[str, str]] = {
    "report": {
        "tool_version": "Version of kvreport.",
        "answers": "What the first screen says of each scenario, in the same order.",
        "scenarios": "One entry per experiment and name, in the order in which they were read.",
        "conditions": "Conditions in which the scenarios differ.",
        "until": "How many repeats are enough; null: nobody asked, and no run recorded it.",
        "baseline": "Scenario that the others are set against; null without --baseline.",
        "contrasts": "Every other scenario against the baseline.",
        "modes": "Every PD scenario beside the same without PD.",
        "capacities": "What hits do to the highest rate that keeps the limits.",
        "outcomes": "What became of the attempts of a matrix.",
        "predictions": "What analyses foretold of cold rounds, against what was measured.",
        "efficiency": "What tokens cost at each endpoint that served hits.",
        "churn": "What stores threw away in each scenario's rounds; empty: nothing.",
    },
    "Answer": {
        "name": "Scenario that it is about.",
        "simulated": "True if the endpoint is kvsim.",
        "base": "Role of the rounds that a hit is measured from; null: no worth is known.",
        "other": "Role of the other rounds; null with it.",
        "requests": "Requests of a round, sentinels excluded; null: not known.",
        "model": "Model asked for; null: not recorded.",
        "base_s": "Mean TTFT of what a hit is measured from; null with the worth.",
        "other_s": "Mean TTFT of a hit; null with it.",
        "ratio": "Other by base; null with it.",
        "low": "Lower end of the ratio's 95 % interval; null: there is none.",
        "high": "Upper end of it.",
        "verdict": "Faster, slower, same, withheld or none.",
        "scope": "Over repeats, or within this run; null: no verdict.",
        "by": "Codes that withheld it, or why there is nothing to judge by.",
        "target": "What came of the TTFT target; null: it was not judged.",
        "asked": "The reduction that was asked for; empty with it.",
        "repeats": "How many repeats there are.",
        "invalid": "Codes of findings that make figures invalid, each once.",
        "warnings": "Codes of the other doubts, each once.",
    },
    "Scenario": {
        "name": "Label, made unique within the report.",
        "experiment_id": "Experiment that the rounds belong to; null for old stats files.",
        "scenario": "Scenario that was run.",
        "kind": "`unit cost` is serial, `load` everything else; null: not recorded.",
        "open_loop": "True if requests were sent on a schedule.",
        "simulated": "True if the endpoint is kvsim.",
        "old": "True if only old stats files were read: means, and nothing about their doubt.",
        "same_arm": "True for an A/A check.",
        "joined": "True if the rounds were made by several invocations.",
        "made_elsewhere": "True if the workload has no seed: repeats had the same text.",
        "nodes": "Endpoints of the cold and the hit round where they differ; null: one node.",
        "repeats": "How many repeats there are.",
        "requests": "Requests of a round, sentinels excluded; null: not known.",
        "cold": "Those of them without an earlier donor in round 1; null: not known.",
        "contexts": "Independent shared contexts; null: none, or not known.",
        "hit_tokens": "Mean length of the prompts behind one hit, in tokens; null: not known.",
        "evidence": "Which tier served, from what the servers counted.",
        "comparable": "True if there is a hit round and something to set it against.",
        "missing": "Roles of the rounds that are not there; empty if comparable.",
        "refused": "Codes of findings that forbid any percentage.",
        "effects": "Changes by name: ttft, one_hit, e2e, tpot and so on.",
        "value": "Name of the effect that says what one hit is worth; null: none does.",
        "later": "Rounds 3 and later against the cold one.",
        "ceiling": "What a perfect cache could show in this shape; null: not said.",
        "throughput_ceiling": "Largest ratio of throughputs by this shape; null: not known.",
        "unsaturated": "True if a closed loop's servers were not shown to be busy.",
        "drift": "The control of TTFT; null: none applies.",
        "answers": "Whether hits were answered as the cold round was; null: not known.",
        "until": "Half-width that the repeats' number was fixed for in two stages; null: none.",
        "need": "How many repeats that takes; null: nobody asked.",
        "targets": "Every target and what came of it.",
        "findings": "What touches these figures, the worst first.",
        "conditions": "Conditions in which the rounds differ.",
        "metrics": "Every metric of both rounds, side by side.",
        "strata": "TTFT by kind of request and round.",
        "rounds": "The rounds as they were read, without samples and series.",
    },
    "Evidence": {
        "asked": "Tier under test as recorded; null: not recorded.",
        "served": "Tier that served in every repeat; null: not shown.",
        "external_tokens": "Tokens that came through a connector; null: not told.",
        "local_tokens": "Tokens out of the engine's own cache; null: not told.",
        "over": "Whether those are of leaders and uniques or of whole rounds; null: neither.",
        "product": "Product whose own counters moved; null: none did.",
        "transferred": "Whether node B loaded from outside; null: not shown, or one node.",
    },
    "Effect": {
        "metric": "Metric that changed.",
        "base": "Role of the round that it is measured from.",
        "other": "Role of the other round.",
        "over": "`all` requests, or `cold_strata`: leaders and uniques.",
        "base_mean": "Mean of the base rounds in the metric's unit, geometric over repeats.",
        "other_mean": "The same of the other rounds.",
        "ratio": "Other by base, geometric over repeats.",
        "thetas": "Natural logarithm of the ratio, one per repeat.",
        "interval": "Its 95 % interval; null: there is none.",
        "no_interval": "Why there is no interval; null if there is one.",
        "pairs": "Complete pairs behind it; null: no samples.",
        "planned": "Pairs that both rounds know; null: no samples.",
        "dropped": "Incomplete ones of those; null: no samples.",
        "groups": "Effective number of groups within one run; null over repeats.",
        "smallest": "Smallest log ratio that could have been shown; null: unknown.",
        "verdict": "What it may be called.",
    },
    "Interval": {
        "low": "Lower end of the log ratio.",
        "high": "Upper end of the log ratio.",
        "method": "What it was made by.",
        "units": "Repeats, groups or pairs behind it.",
        "first": "Repeats of the first stage, whose spread it has; null: no stages.",
    },
    "Verdict": {
        "word": "Faster, slower, same, withheld or none.",
        "scope": "Over repeats, or within this run; null: no verdict.",
        "by": "Codes that withheld it, or why there is nothing to judge by.",
    },
    "Ceiling": {
        "ratio": "Least that the hit round can be of the cold one.",
        "contexts": "Leaders of a round.",
        "uniques": "Unique requests of a round.",
        "requests": "Requests of a round.",
        "miss_s": "Mean TTFT of a miss.",
        "hit_s": "Mean TTFT of a hit.",
    },
    "Drift": {
        "source": "What was looked at: sentinels, rounds without reuse, or the nodes.",
        "ratio": "Change of what should not change; null: there was no control.",
        "interval": "Its 95 % interval; null: it could be anything.",
        "units": "Sentinels, or pairs of rounds, behind it.",
    },
    "SameAnswers": {
        "compared": "Requests whose answers are known in both rounds, over all repeats.",
        "equal": "Those with equal answers.",
        "near_ties": "Those that part where two tokens were as likely; null: hashes alone.",
        "wrong": "Those that part where one token was clearly likelier; null: hashes alone.",
        "unknown": "Those of which nothing tells which it is; null: hashes alone.",
    },
    "Need": {
        "name": "Scenario that it is about.",
        "repeats": "Repeats that there are.",
        "first_repeats": "Last repeat of the first stage.",
        "sd": "Standard deviation of the first stage's log ratios; null: not known.",
        "needed": "Repeats in all that give the wished half-width; null: not known.",
        "half_width": "Half-width of the ratio that there is; null: no interval.",
        "control_needed": "Repeats that let drift pass twice the half-width; null: not known.",
    },
    "Result": {
        "target": "What was asked for.",
        "status": "What came of it.",
        "reason": "Code of why; null where the status says it all.",
    },
    "Target": {
        "name": "Name of the target.",
        "effect": "Effect that it is held against.",
        "asked": "Figures as they were written.",
        "low": "Least ratio that meets it; null: unbounded.",
        "high": "Largest ratio that meets it; null: unbounded.",
        "named": "True if --target named it: then it decides the exit status.",
    },
    "Placed": {
        "rounds": "Roles of the rounds that it is about; empty: all.",
        "repeats": "Repeats in which it was made.",
        "finding": "The finding itself.",
        "effects": "Effects that it is narrowed to; empty: all between those rounds.",
    },
    "Condition": {
        "key": "Name of the condition.",
        "values": "Each value with who has it; a null value was not recorded.",
    },
    "Row": {
        "name": "Name of the metric.",
        "unit": "Unit of both figures.",
        "base": "Mean over the repeats before; null: not known.",
        "other": "Mean over the repeats after; null: not known.",
        "effect": "Its change; null: none is told.",
    },
    "StratumRow": {
        "stratum": "Kind of request.",
        "role": "Role of the round.",
        "n": "Values over all repeats.",
        "mean": "Mean TTFT in seconds; null: no value.",
        "p50": "Median; null: no value.",
        "p90": "90th percentile; null: no value.",
        "p99": "99th percentile; null below 100 values.",
    },
    "Shown": {
        "role": "Role of the round.",
        "repeat": "Repeat that it belongs to.",
        "place": "File and line that it was read from.",
        "stats": "The round's stats without samples and server series.",
    },
    "Enough": {
        "half_width": "Wished half-width of the TTFT ratio; 0.05 is 5 %.",
        "first_repeats": "Repeats of the first stage.",
        "needed": "Largest number that a scenario needs; null: not known yet.",
        "maximum": "Most that shall be run; null: no limit.",
        "total": "The number needed, or the maximum if that is less; null: not known yet.",
        "per_name": "The same for each scenario.",
        "reached": "True if every scenario has as many as it needs.",
    },
    "Contrast": {
        "name": "Scenario that is set against the baseline.",
        "refused": "Why it was not paired with it; null if it was.",
        "effects": "Changes from the baseline, by metric and round.",
        "differs": "In what the plans differ, where they were not paired.",
        "token_first": "True if one of the two sends token 1 before the KV transfer: no TTFT.",
    },
    "Column": {
        "key": "`non_pd`, `pd_cold` or `pd_hit`.",
        "name": "Scenario that it is of.",
        "ttft_s": "Mean TTFT in seconds; null: not known.",
        "tpot_s": "Mean TPOT in seconds; null: not known.",
        "e2e_s": "Mean E2E latency in seconds; null: not known.",
        "throughput_rps": "Requests per second; null: not known, or an open loop.",
        "second_token_s": "Mean first gap in seconds; null: not known.",
        "prefill_s": "Prefill per request in seconds; null: not known.",
        "transfer_s": "KV transfer per request in seconds; null: not known.",
        "decode_s": "Decode per request in seconds; null: not known.",
        "estimated": "Phases that are estimates, not measured by a server.",
    },
    "Modes": {
        "non_pd": "Scenario without disaggregation.",
        "pd": "Scenario with prefill and decode on servers of their own.",
        "refused": "Why no requests were paired; null if they were.",
        "columns": "The documents' three columns.",
        "effects": "Changes from non-PD cold, by metric and PD round.",
        "differs": "In what the plans differ, where they were not paired.",
        "flow": "Who sends token 1: `vllm` the decoder, `lmcache` the prefiller; null: not known.",
    },
    "Capacities": {
        "name": "Label of the search.",
        "experiment_id": "Experiment that it belongs to.",
        "scenario": "Scenario that was run.",
        "simulated": "True if the endpoint is kvsim.",
        "slo": "Limits in seconds.",
        "goodput_ratio": "Part of the requests that must keep them.",
        "repeats": "Searches by repeat.",
        "no_reuse": "Highest rate without hits.",
        "hit": "Highest rate with hits.",
        "ratio": "Rate with hits by rate without; null: not shown.",
        "low": "Lower end of its interval; null: none.",
        "high": "Upper end of its interval; null: none.",
        "verdict": "What may be said of it.",
        "reasons": "Codes of why nothing may be said.",
        "probes": "Rounds that were run in all.",
        "findings": "What touches these figures.",
    },
    "Efficiency": {
        "name": "Label of the files, or the endpoint.",
        "endpoint_url": "Endpoint that served the requests; null: not recorded.",
        "model": "Model asked for; null: not recorded.",
        "simulated": "True if the endpoint is kvsim.",
        "scenarios": "Scenarios whose requests are in it.",
        "requests": "Requests that the fit stands on.",
        "lengths": "Prompt lengths in tokens, those of one level together.",
        "reasons": "Codes of why there is no fit; empty: there is one.",
        "tainted": "Codes of what some rounds were left out for.",
        "split": "How the tier of cached tokens is known; null: there were none.",
        "scope": "`repeats`, or `run`: within these runs only; null: no fit.",
        "units": "Repeats or groups that the intervals stand on; null: no fit.",
        "figures": "Coefficients of the fit, and speeds that follow.",
        "break_even": "By tier, from which length loading beats computing.",
        "savings": "Prefill that the hits of each scenario save.",
        "residuals": "How far requests lie from the fit, by kind.",
        "held_out": "Each length as a fit of all others foretells it.",
        "bytes_per_token": "Bytes of KV cache that a token takes; null: not known.",
        "bytes_how": "`counters` of the engine, or `given`; null: not known.",
    },
    "Churn": {
        "scenario": "Scenario of the rounds.",
        "role": "Role of the rounds.",
        "rounds": "How many there are.",
        "evicted_keys": "Keys that the store evicted in them.",
        "put_keys": "Keys that were put in them; null: not counted.",
        "refused_puts": "Puts that found no room; null: not counted.",
        "efficiency": "Cached by ideal tokens, in the mean; null: no hit rounds.",
    },
    "Figure": {
        "name": "What it is: `base_s`, `per_token_s`, `prefill_tps`, `load_bps`, ...",
        "source": "Tier that it is of; null: of none.",
        "at_tokens": "Length that it is at, in tokens; null: of none.",
        "value": "The figure, in the unit of its name; null: not identifiable.",
        "low": "Lower end of its 95 % interval; null with the value.",
        "high": "Upper end of its 95 % interval; null with the value.",
        "reason": "Code of why there is no value; null where there is one.",
    },
    "BreakEven": {
        "source": "Tier that is loaded from.",
        "word": "`from`: from `tokens` on; `never` up to `longest`; `none`: not identifiable.",
        "longest": "Longest length that was measured, in tokens.",
        "tokens": "Length from which loading wins; 0: at every length; null: none.",
        "low": "Lower end of its 95 % interval; null: none.",
        "high": "Upper end of its 95 % interval; null: none.",
        "reason": "Code of why it is not identifiable; null where it is.",
    },
    "Saving": {
        "scenario": "Scenario whose hits save it.",
        "seconds": "Seconds of prefill of one engine in 1,000 requests.",
    },
    "Residual": {
        "kind": "`all`, `computed`, or the tier that most of a prompt came from.",
        "requests": "Requests of the kind.",
        "mean": "Mean of measured by fitted, less 1.",
        "spread": "Root mean square of the same.",
    },
    "HeldOut": {
        "tokens": "Length that was left out, in tokens.",
        "kind": "Kind of its requests.",
        "requests": "How many there are.",
        "measured_s": "Their mean TTFT.",
        "predicted_s": "The same as the other lengths foretell it.",
        "error": "Predicted by measured, less 1.",
    },
    "Repeat": {
        "number": "Which repeat, from 1.",
        "no_reuse": "End of the search without hits; null: not run.",
        "hit": "End of the search with hits; null: not run.",
    },
    "Prediction": {
        "name": "Label of the round.",
        "repeat": "Which repeat it was, from 1.",
        "serial": "True if its requests came one after the other, as is predicted for.",
        "requests": "Requests of the workload, sentinels excluded.",
        "block_tokens": "Tokens of a block of the predicted cache.",
        "order": "Which end of a prompt it gives up first: tail-first or head-first.",
        "capacity": "Its room as somebody named it; null: no limit.",
        "capacity_tokens": "Its room in tokens; null: no limit.",
        "predicted": "Share of the prompt tokens that it finds.",
        "measured": "Share that the engines reported.",
        "error": "Measured less predicted.",
        "like_tokens": "Room at which the curve reaches the measurement; null: nowhere.",
    },
    "Bracket": {
        "passed": "Highest rate that kept the limits; null: none did.",
        "failed": "Lowest rate that did not; null: none failed.",
    },
}


RECORDS = {
    "RoundStats": "round_stats",
    "Capacity": "capacity",
    "Outcome": "outcome",
    "Finding": "finding",
}
"""What has a schema of its own is named here, and not repeated."""


def report_schema() -> dict[str, Any]:
    """The schema of a report; KeyError names a field that nobody has described."""
    schema: dict[str, Any] = schema_of("report", Conclusion)
    schema["$defs"] = _pruned(schema)
    for name, struct in {"report": schema, **schema["$defs"]}.items():
        properties = struct.get("properties", {})
        for key, value in properties.items():
            if "description" not in value:
                properties[key] = _described(value, FIELDS[name][key])
        if name in FIELDS:
            struct["additionalProperties"] = False
    return schema


def _pruned(schema: dict[str, Any]) -> dict[str, Any]:
    """Definitions that a report still asks for once its records are objects of another schema."""
    found: dict[str, Any] = schema["$defs"]
    for name, record in RECORDS.items():
        text = f"As `{record}.schema.json` has it."
        found[name] = {"title": name, "type": "object", "description": text}
    kept: dict[str, Any] = {}
    wanted = [*_asked(schema["properties"])]
    while wanted:
        name = wanted.pop()
        if name not in kept:
            kept[name] = found[name]
            wanted += _asked(found[name])
    return dict(sorted(kept.items()))


def _asked(value: Any) -> Iterator[str]:
    """Names of the definitions that a part of a schema refers to."""
    if isinstance(value, dict):
        if "$ref" in value:
            yield str(value["$ref"]).rsplit("/", 1)[1]
        value = [*value.values()]
    if isinstance(value, list):
        for one in value:
            yield from _asked(one)


def _described(value: dict[str, Any], text: str) -> dict[str, Any]:
    return value | {"description": text}


def main() -> None:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "schemas")
    text = json.dumps(report_schema(), indent=2, ensure_ascii=False) + "\n"
    (target / "report.schema.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
