"""The make rules of a matrix.

One recipe is one repeat of one scenario. It never fails for make: whether it succeeded is seen on
disk, so that the rest goes on and `--summary` tells. Everything in it is literal: what `make -n`
prints can be pasted into bash and does the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from kvmatrix.clearing import Clearing
from kvmatrix.estimate import duration
from kvmatrix.matrix import Matrix, Scenario
from kvmatrix.quoting import bash_word, recipe, shown
from kvmatrix.schedule import Step
from kvpipe.process import version

HEAD = """\
# Make rules of kvmatrix {version}: kvmatrix FILE | make -f -
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --keep-going --no-builtin-rules
.SUFFIXES:
.NOTPARALLEL:
.PHONY: matrix
matrix: {report}
\t@kvmatrix {file} --summary
"""
WAITS = "matrix: another run of this matrix is still at work here: waiting until it has ended"
UNCLEAR = "matrix: clearing was not shown to be complete: going on, tainted"
NOT_CLEARED = '],"verified":false,'  # kvclear's record: the list of proofs ends just before it


def rules(matrix: Matrix, steps: Sequence[Step], experiment: str, flags: Sequence[str]) -> str:
    """Everything that make needs to know, as text; `flags` are those that read the matrix again."""
    out = matrix.out
    file = " ".join(map(bash_word, [str(matrix.path), *flags]))
    due = [step for step in steps if step.attempt is not None]
    parts = [HEAD.format(version=version(), file=recipe(file), report=f"{out}/report.md")]
    parts.append(_experiment(out, experiment))
    left_s = sum(step.scenario.shape.repeat_s for step in due)
    for number, step in enumerate(due, 1):
        place = f"{number}/{len(due)}"
        parts.append(_step(matrix, step, place, left_s, experiment))
        left_s -= step.scenario.shape.repeat_s
    stats = []
    for scenario in matrix.scenarios:
        own = [step for step in steps if step.scenario is scenario]
        if any(step.attempt is not None or step.attempts.whole for step in own):
            stats.append(f"{out}/{scenario.slug}/stats.json")
            parts.append(_stats(out, scenario, own))
    parts.append(_report(out, file, [str(target(step)) for step in due], stats))
    return "\n".join(parts)


def target(step: Step) -> Path:
    """The file whose presence says that a step is done."""
    assert step.attempt is not None
    return step.attempts.path(step.attempt) / "run.jsonl"


def _experiment(out: Path, experiment: str) -> str:
    # Written once: repeats of a matrix that was interrupted belong to one experiment.
    return (
        f"{out}/experiment:\n"
        f"\t@mkdir -p {out} && printf '%s\\n' {experiment} > {out}/experiment.part"
        f" && mv {out}/experiment.part {out}/experiment\n"
    )


def _step(matrix: Matrix, step: Step, place: str, left_s: float, experiment: str) -> str:
    assert step.attempt is not None
    attempts = step.attempts
    part, whole = attempts.part(step.attempt), attempts.path(step.attempt)
    name = shown(step.scenario.name)
    head = (
        f"matrix: {place}: repeat {step.repeat} of {matrix.repeats}: {name}"
        f" (about {duration(left_s)} left in all)"
    )
    failed = f"matrix: {place}: FAILED: {name}: what was written lies in {part}"
    work = " && \\\n\t".join(_work(matrix, step, part, whole, experiment))
    # Processes of an attempt may have outlived make (kill -9) and completed it while we waited.
    gone = [attempts.path(number) / "run.jsonl" for number in attempts.half]
    done = " || ".join(f"[[ -e {path} ]]" for path in gone)
    unless = f"if {done}; then echo 'matrix: done meanwhile'; exit; fi; \\\n\t" if done else ""
    body = (
        f"mkdir -p {attempts.folder} && mkdir {part} && {{ flock -n 9 || {{ echo"
        f" {bash_word(WAITS)}; flock 9; }}; \\\n"
        f"\tprintf '%s\\n' {bash_word(head)}; \\\n\t{unless}{work} || \\\n"
        f"\tprintf '%s\\n' {bash_word(failed)}; }} 9>> {matrix.out}/lock 2>&1 |"
        f" tee -ia {part}/log >&2\n"
    )
    rule = f"{target(step)}: | {matrix.out}/experiment\n\t@{recipe(body)}"
    return f".PRECIOUS: {target(step)}\n{rule}"


def _work(matrix: Matrix, step: Step, part: Path, whole: Path, experiment: str) -> Iterator[str]:
    """The commands of a step, in order; each only if those before it went well."""
    scenario = step.scenario
    described = {
        "name": scenario.name,
        "scenario": scenario.scenario,
        "repeat": step.repeat,
        "attempt": step.attempt,
        "salt": step.salt,
        "fingerprint": scenario.fingerprint,
    }
    line = json.dumps(described, ensure_ascii=False)
    yield f"printf '%s\\n' {bash_word(line)} > {part}/scenario.json"
    if scenario.clearing is not None:
        yield _clear(matrix, scenario.clearing, part)
    else:
        yield f"echo {bash_word(_no_clearing(matrix, scenario))}"
    yield _load(scenario, step, f"{part}/isolation.json", experiment) + f" > {part}/run.jsonl"
    yield f"mv {part} {whole}"


def _clear(matrix: Matrix, clearing: Clearing, part: Path) -> str:
    """kvclear; status 1 goes on if it could not tell, or if the matrix says to go on anyway.

    A command that starts a server in the background leaves it kvclear's stderr. Were that the pipe
    to the log, the step would last as long as the server: so it is a file, shown afterwards.
    """
    command = " ".join(map(bash_word, ("kvclear", *clearing.flags)))
    isolation, said = f"{part}/isolation.json", f"{part}/clear.log"
    go_on = f"! grep -qF {bash_word(NOT_CLEARED)} {isolation} && "
    if matrix.on_unverified == "continue":
        go_on = ""
    unclear = f"{go_on}echo {bash_word(UNCLEAR)}"
    if not clearing.commands:
        return f"{{ {command} > {isolation} || \\\n\t{{ [[ $? == 1 ]] && {unclear}; }}; }}"
    return (
        f"echo 'matrix: kvclear is at work: see {said}' && \\\n\t"
        f"{{ {command} > {isolation} 2> {said}; cleared=$?; cat {said}; \\\n\t"
        f"[[ $cleared == 0 ]] || {{ [[ $cleared == 1 ]] && {unclear}; }}; }}"
    )


def _no_clearing(matrix: Matrix, scenario: Scenario) -> str:
    why = "nothing is named to clear with" if matrix.clears else "the matrix says not to clear"
    if scenario.salt == "none":
        return f"matrix: WARNING: no isolation at all: no salt, and {why}"
    return f"matrix: isolated by the salt alone: {why}"


def _load(scenario: Scenario, step: Step, isolation: str, experiment: str) -> str:
    failures = scenario.shape.requests * (scenario.shape.rounds + scenario.shape.controls) // 100
    words = [
        *("kvload", "--config", str(scenario.config), "--scenarios", scenario.scenario),
        f"--name={scenario.name}",
        *("--repeat", str(step.repeat)),
        *(("--control",) if scenario.control else ()),
        f"--salt={step.salt}",
        *("--experiment", experiment),
        *scenario.overrides,
        *(("--max-failures", str(failures)) if failures else ()),
        *(("--isolation", isolation) if scenario.clearing else ()),
    ]
    return " ".join(map(bash_word, words))


def _stats(out: Path, scenario: Scenario, steps: Sequence[Step]) -> str:
    folder = f"{out}/{scenario.slug}"
    ordered = sorted(steps, key=lambda step: step.repeat)
    sources, needs = [], []
    for step in ordered:
        candidates = _candidates(step)
        if candidates:
            sources.append(" || ".join(f"cat {run} 2>/dev/null" for run in candidates) + " || :;")
        if step.attempt is not None:
            needs.append(str(target(step)))
        elif step.attempts.whole:
            needs.append(str(candidates[0]))
    work = (
        f"\t@mkdir -p {folder} && {{ {' '.join(sources)} }} > {folder}/run.jsonl\n"
        f"\t@cat {folder}/repeat-*/attempt-*/log > {folder}/log 2>/dev/null || :\n"
        f"\t@if [[ -s {folder}/run.jsonl ]]; then"
        f" {{ kvstats {folder}/run.jsonl > {folder}/stats.part || [[ $? == 1 ]]; }} &&"
        f" mv {folder}/stats.part {folder}/stats.json;"
        f" else rm -f {folder}/run.jsonl {folder}/stats.json; fi\n"
    )
    return f"{folder}/stats.json: {' '.join(needs)}\n{recipe(work)}"


def _candidates(step: Step) -> list[Path]:
    """Where a repeat's records may lie when the stats are made, the newest first."""
    numbers = {*step.attempts.whole}
    if step.attempt is not None:
        numbers |= {step.attempt, *step.attempts.half}
    return [step.attempts.path(number) / "run.jsonl" for number in sorted(numbers, reverse=True)]


def _report(out: Path, file: str, due: Sequence[str], stats: Sequence[str]) -> str:
    """The report, with what became of the matrix at its end.

    Its prerequisites are the steps first, in their order: that is the order in which make runs.
    It is made aside, and report.md moves last: half a report is never taken for done.
    """
    made = f"{out}/report.part"
    body = (
        f"\t@mkdir -p {made} && {{ kvmatrix {file} --summary > {out}/summary.txt"
        " || [[ $? == 1 ]]; }\n"
        f"\t@found=$(ls {' '.join(stats)} 2>/dev/null) || :;"
        f' if [[ -n "${{found:-}}" ]]; then kvreport -o {made} $found || [[ $? == 1 ]];'
        f" else : > {made}/report.txt; : > {made}/report.md; rm -f {out}/report.json; fi\n"
        f"\t@{{ echo; cat {out}/summary.txt; }} >> {made}/report.txt;"
        f" {{ printf '\\n## The matrix\\n\\n```text\\n'; cat {out}/summary.txt; echo '```'; }}"
        f" >> {made}/report.md;"
        f" for kind in json txt md; do [[ ! -e {made}/report.$kind ]] ||"
        f" mv {made}/report.$kind {out}/report.$kind; done;"
        f" rmdir {made} && echo 'matrix: the report is {out}/report.md' >&2\n"
    )
    needs = " ".join([*due, *stats])
    return f".PHONY: report\nreport: {out}/report.md\n{out}/report.md: {needs}\n{recipe(body)}"
