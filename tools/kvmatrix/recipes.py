"""The recipe of one step, one repeat of one scenario, as bash; all of it literal.

It never fails for make: whether it succeeded is seen on disk. Whatever it starts dies with it:
setpriv has the kernel send SIGTERM when the parent is gone, however make or the shell ended, and
kvload then drains. The lock is for what is left of that moment, and for two makes at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kvmatrix.clearing import Clearing
from kvmatrix.estimate import duration
from kvmatrix.matrix import Matrix, Scenario
from kvmatrix.probing import search_commands
from kvmatrix.quoting import GUARD, bash_word, recipe, shown
from kvmatrix.schedule import Step

WAITS = "matrix: another run of this matrix is still at work here: waiting until it has ended"
UNCLEAR = "matrix: clearing was not shown to be complete: going on, tainted"
BETWEEN = "matrix: a step between the scenarios failed"
NOT_CLEARED = '],"verified":false,'  # kvclear's record: the list of proofs ends just before it
STEP_FAILED = '"ok":false'
UNPRINTABLE = re.compile(r"[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")  # by YAML, not by JSON


def target(step: Step) -> Path:
    """The file whose presence says that a step is done."""
    assert step.attempt is not None
    return step.attempts.path(step.attempt) / "run.jsonl"


def step_rule(
    matrix: Matrix, step: Step, before: Step | None, place: str, left_s: float, experiment: str
) -> str:
    """The rule of a step that is due; `before` is its scenario's in the repeat before."""
    assert step.attempt is not None
    attempts = step.attempts
    part, whole = attempts.part(step.attempt), attempts.path(step.attempt)
    name = shown(step.scenario.name)
    head = (
        f"matrix: {place}: repeat {step.repeat} of {matrix.repeats}: {name}"
        f" (about {duration(left_s)} left in all)"
    )
    failed = f"matrix: {place}: FAILED: {name}: what was written lies in {part}"
    work = " && \\\n\t".join(_work(matrix, step, before, part, whole, experiment))
    work = f"{{ {work}; }} || \\\n\tprintf '%s\\n' {bash_word(failed)}"
    # Another make may have completed an attempt while we waited for it.
    gone = [attempts.path(number) / "run.jsonl" for number in attempts.half]
    if gone:
        done = " || ".join(f"[[ -e {path} ]]" for path in gone)
        work = f"if {done}; then echo 'matrix: done meanwhile'; else \\\n\t{work}; fi"
    body = (
        f"mkdir -p {attempts.folder} && mkdir {part} && {{ flock -n 9 || {{ echo"
        f" {bash_word(WAITS)}; flock 9; }}; \\\n"
        f"\tprintf '%s\\n' {bash_word(head)}; \\\n\t{work}; \\\n"
        f"\t}} > >(exec tee -ia {part}/log >&2) 2>&1 9>> {matrix.out}/lock; wait ${{!-}} || :\n"
    )
    rule = f"{target(step)}: | {matrix.out}/experiment\n\t@{recipe(body)}"
    return f".PRECIOUS: {target(step)}\n{rule}"


def _work(
    matrix: Matrix, step: Step, before: Step | None, part: Path, whole: Path, experiment: str
) -> Iterator[str]:
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
    config = scenario.config
    if config is None:
        config = part / "config.json"
        yield f"printf '%s\\n' {bash_word(_as_yaml(scenario.settings))} > {config}"
    steps = [*matrix.between, *([scenario.restart] if scenario.restart else [])]
    for number, flags in enumerate(steps, 1):
        yield _between(flags, f"{part}/between-{number}")
    if scenario.clearing is not None:
        yield _clear(matrix, scenario.clearing, part)
    else:
        yield f"echo {bash_word(_no_clearing(matrix, scenario))}"
    if scenario.capacity is None:
        yield _load(scenario, step, config, part, experiment) + f" > {part}/run.jsonl"
    else:
        yield from search_commands(step, before, config, part, experiment)
    yield f"mv {part} {whole}"


def _as_yaml(value: dict[str, Any]) -> str:
    """A config as one line of JSON that a YAML reader takes too."""
    text = json.dumps(value, ensure_ascii=False)
    return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _kvclear(flags: Sequence[str], record: str, said: str | None, on_one: str) -> str:
    """kvclear, and what is done at its status 1.

    A command that starts a server in the background leaves it kvclear's stderr. Were that the pipe
    to the log, the step would last as long as the server: so it is a file, shown afterwards.
    """
    command = f"{GUARD} " + " ".join(map(bash_word, ("kvclear", *flags)))
    if said is None:
        return f"{{ {command} > {record} || \\\n\t{{ [[ $? == 1 ]] && {on_one}; }}; }}"
    return (
        f"echo 'matrix: kvclear is at work: see {said}' && \\\n\t"
        f"{{ {command} > {record} 2> {said}; cleared=$?; cat {said}; \\\n\t"
        f"[[ $cleared == 0 ]] || {{ [[ $cleared == 1 ]] && {on_one}; }}; }}"
    )


def _clear(matrix: Matrix, clearing: Clearing, part: Path) -> str:
    """kvclear; status 1 goes on if it could not tell, or if the matrix says to go on anyway."""
    isolation = f"{part}/isolation.json"
    go_on = f"! grep -qF {bash_word(NOT_CLEARED)} {isolation} && "
    if matrix.on_unverified == "continue":
        go_on = ""
    said = f"{part}/clear.log" if clearing.commands else None
    return _kvclear(clearing.flags, isolation, said, f"{go_on}echo {bash_word(UNCLEAR)}")


def _between(flags: Sequence[str], path: str) -> str:
    """Steps of the user's own: kvclear cannot show what they did, only whether they were done."""
    record = f"{path}.json"
    failed = f"{{ echo {bash_word(BETWEEN)}; false; }}"
    undone = f"{{ ! grep -qF {bash_word(STEP_FAILED)} {record} || {failed}; }}"
    said = f"{path}.log" if "--command" in flags else None
    return _kvclear(flags, record, said, undone)


def _no_clearing(matrix: Matrix, scenario: Scenario) -> str:
    why = "nothing is named to clear with" if matrix.clears else "the matrix says not to clear"
    if scenario.salt == "none":
        return f"matrix: WARNING: no isolation at all: no salt, and {why}"
    return f"matrix: isolated by the salt alone: {why}"


def _load(scenario: Scenario, step: Step, config: Path, part: Path, experiment: str) -> str:
    failures = scenario.shape.requests * (scenario.shape.rounds + scenario.shape.controls) // 100
    words = [
        *("kvload", "--config", str(config), "--scenarios", scenario.scenario),
        f"--name={scenario.name}",
        *("--repeat", str(step.repeat)),
        *(("--control",) if scenario.control else ()),
        f"--salt={step.salt}",
        *("--experiment", experiment),
        *scenario.overrides,
        *(("--max-failures", str(failures)) if failures else ()),
        *("--keep-plan", f"{part}/plan.jsonl"),
        *(("--isolation", f"{part}/isolation.json") if scenario.clearing else ()),
    ]
    return f"{GUARD} " + " ".join(map(bash_word, words))
