"""The make rules of a matrix.

One recipe is one repeat of one scenario. Whether it succeeded is seen on disk, so that the rest
goes on and `--summary` tells. Everything in the rules is literal: what `make -n` prints can be
pasted into bash and does the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kvmatrix.matrix import Matrix, Scenario
from kvmatrix.quoting import GUARD, bash_word, recipe
from kvmatrix.recipes import step_rule, target
from kvmatrix.schedule import Step
from kvmatrix.until import FILE as UNTIL_FILE
from kvmatrix.until import Until
from kvpipe.process import version

HEAD = """\
# Make rules of kvmatrix {version}: kvmatrix FILE | make -f -
SHELL := setpriv
.SHELLFLAGS := --pdeathsig TERM /bin/bash -euo pipefail -c
MAKEFLAGS += --keep-going --no-builtin-rules
.SUFFIXES:
.NOTPARALLEL:
.PHONY: matrix
matrix:
"""


def rules(
    matrix: Matrix,
    steps: Sequence[Step],
    experiment: str,
    flags: Sequence[str],
    until: Until | None = None,
) -> str:
    """Everything that make needs to know, as text; `flags` are those that read the matrix again."""
    out = matrix.out
    file = " ".join(map(bash_word, [str(matrix.path), *flags]))
    due = [step for step in steps if step.attempt is not None]
    parts = [HEAD.format(version=version())]
    first_stage = until is not None and until.total is None
    if not first_stage:
        parts.append(f"matrix: {out}/report.md\n\t@kvmatrix {recipe(file)} --summary\n")
    parts.append(_experiment(out, experiment))
    left_s = sum(step.scenario.shape.repeat_s for step in due)
    for number, step in enumerate(due, 1):
        place = f"{number}/{len(due)}"
        before = next((one for one in steps if _follows(step, one)), None)
        parts.append(step_rule(matrix, step, before, place, left_s, experiment))
        left_s -= step.scenario.shape.repeat_s
    stats = []
    for scenario in matrix.scenarios:
        own = [step for step in steps if step.scenario is scenario]
        if any(step.attempt is not None or step.attempts.whole for step in own):
            stats.append(f"{out}/{scenario.slug}/stats.json")
            parts.append(_stats(out, scenario, own))
    needs = [*(str(target(step)) for step in due), *stats]
    if until is not None and first_stage:
        plain = [flag for flag in flags if flag not in until.own_flags]
        fallback = " ".join(map(bash_word, [str(matrix.path), *plain]))
        parts.append(_fix(until, out, (file, fallback), needs, stats))
    else:
        parts.append(_report(matrix, file, needs, stats, until))
    return "\n".join(parts)


def _fix(
    until: Until,
    out: Path,
    files: tuple[str, str],
    needs: Sequence[str],
    stats: Sequence[str],
) -> str:
    """The end of a first stage: how many repeats there will be is written down, and they are run.

    They are other rules, for another make. Where it cannot be said, the report is made of what is
    there, by the second of `files`, which does without; the summary's exit status is what tells.
    """
    file, plain = files
    asked = f"{until.report_flags} --until-max {until.maximum}"
    fixed, made = f"{out}/{UNTIL_FILE}", f"{out}/first-stage.json"
    body = (
        f"\t@{{ flock 9; rm -f {fixed}; \\\n"
        f"\t{{ kvreport{asked} --format json $(ls {' '.join(stats)} 2>/dev/null) < /dev/null"
        f" > {made} || [[ $? == 1 ]]; }} && kvmatrix {file} --fix {made} > {out}/until.part && \\\n"
        f"\tmv {out}/until.part {fixed} || rm -f {out}/until.part; }} 9>> {out}/lock\n"
    )
    again = f"{GUARD} make --no-print-directory -f - matrix"
    then = (
        f"\t@if [[ -e {fixed} ]]; then kvmatrix {file} | {again};"
        f" else kvmatrix {plain} | {again}; fi\n"
    )
    return (
        f".PHONY: {fixed}\n{fixed}: {' '.join(needs)}\n{recipe(body)}"
        f"\nmatrix: {fixed}\n{recipe(then)}"
    )


def _follows(step: Step, other: Step) -> bool:
    """Whether a step repeats another one next."""
    return step.scenario is other.scenario and step.repeat == other.repeat + 1


def _experiment(out: Path, experiment: str) -> str:
    # Written once: repeats of a matrix that was interrupted belong to one experiment.
    return (
        f"{out}/experiment:\n"
        f"\t@mkdir -p {out} && printf '%s\\n' {experiment} > {out}/experiment.part"
        f" && mv {out}/experiment.part {out}/experiment\n"
    )


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
    runs = " ".join(sources)
    summarise = f"{{ kvstats {folder}/run.jsonl > {folder}/stats.part || [[ $? == 1 ]]; }}"
    if scenario.capacity is not None:  # a search's records are what the report reads
        summarise = f"cp {folder}/run.jsonl {folder}/stats.part"
    work = (
        f"\t@mkdir -p {folder} && {{ flock 9; \\\n"
        f"\t{{ {runs} }} > {folder}/run.jsonl; \\\n"
        f"\t{{ {runs.replace('run.jsonl', 'plan.jsonl')} }} > {folder}/plan.jsonl; \\\n"
        f"\tcat {folder}/repeat-*/attempt-*/log > {folder}/log 2>/dev/null || :; \\\n"
        f"\tif [[ -s {folder}/run.jsonl ]] &&"
        f" {summarise} &&"
        f" mv {folder}/stats.part {folder}/stats.json; then :;"
        f" else rm -f {folder}/{{run.jsonl,plan.jsonl,stats.part,stats.json}}; fi; \\\n"
        f"\t}} 9>> {out}/lock\n"
    )
    return f"{folder}/stats.json: {' '.join(needs)}\n{recipe(work)}"


def _candidates(step: Step) -> list[Path]:
    """Where a repeat's records may lie when the stats are made, the newest first."""
    numbers = {*step.attempts.whole}
    if step.attempt is not None:
        numbers |= {step.attempt, *step.attempts.half}
    return [step.attempts.path(number) / "run.jsonl" for number in sorted(numbers, reverse=True)]


def _report(
    matrix: Matrix,
    file: str,
    needs: Sequence[str],
    stats: Sequence[str],
    until: Until | None,
) -> str:
    """The report, what became of the scenarios in it.

    Its prerequisites are the steps first, in their order: that is the order in which make runs.
    It is made aside, and report.md moves last: half a report is never taken for done.
    """
    out = matrix.out
    made = f"{out}/report.part"
    wanted = dict.fromkeys(["md", *matrix.formats]) if matrix.formats else []
    formats = "".join(f" --format {name}" for name in wanted)
    if until is not None:
        formats += until.report_flags
        needs = [*needs, f"{out}/{UNTIL_FILE}"]
    found = f"$(ls {' '.join(stats)} 2>/dev/null) " if stats else ""
    body = (
        f"\t@{{ flock 9; rm -rf {made} && mkdir {made} && \\\n"
        f"\t{{ kvmatrix {file} --summary > {out}/summary.txt || [[ $? == 1 ]]; }} && \\\n"
        f"\tkvmatrix {file} --outcomes > {out}/outcomes.jsonl && \\\n"
        f"\t{{ kvreport{formats} -o {made} {found}{out}/outcomes.jsonl || [[ $? == 1 ]]; }} &&"
        " \\\n"
        f"\tmv {made}/report.md {out}/report.last && \\\n"
        f"\tfor made in $(ls {made}); do rm -rf {out}/$made; mv {made}/$made {out}/; done &&"
        f" rmdir {made} && mv {out}/report.last {out}/report.md &&"
        f" echo 'matrix: the report is {out}/report.md' >&2; }} 9>> {out}/lock\n"
    )
    before = " ".join(needs)
    return f".PHONY: report\nreport: {out}/report.md\n{out}/report.md: {before}\n{recipe(body)}"
