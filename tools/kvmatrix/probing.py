"""The commands of a search: prime, probe, ask for the next rate, until there is none.

Everything that was probed lies beside the attempts and outlives them: whatever ended an attempt,
the next one goes on with the probes that are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from kvmatrix.capacity import ARMS
from kvmatrix.limits import Limits
from kvmatrix.probes import SEARCH, Search
from kvmatrix.quoting import GUARD, bash_word
from kvmatrix.schedule import Step
from kvpipe.records import Arm

PRIMERS = 8  # requests in flight while the cache is filled: nothing is measured then
SEED_STRIDE = 1_000_003  # between repeats: as many seeds of one repeat are never another's
ROUND = {"no_reuse": 0, "hit": 2}
TITLES = {"no_reuse": "without reuse", "hit": "with hits"}


def probes_folder(step: Step) -> Path:
    """Where the probes of a repeat lie: apart for other settings, and once more after `ONLY`."""
    made = len(step.attempts.whole) + (step.attempt is not None)
    return step.attempts.folder / f"probes-{step.scenario.fingerprint}-{made}"


def search_commands(
    step: Step, before: Step | None, config: Path, part: Path, experiment: str
) -> Iterator[str]:
    """The commands of one repeat's search, in order; each only if those before it went well.

    Odd repeats begin without reuse, even ones with hits, so that drift favours neither.
    """
    scenario, limits = step.scenario, step.scenario.capacity
    assert limits is not None
    folder = probes_folder(step)
    search = Search(
        name=scenario.name,
        scenario=scenario.scenario,
        repeat=step.repeat,
        experiment_id=experiment,
        limits=limits,
        before=None if before is None else str(probes_folder(before)),
    )
    text = msgspec.json.encode(search).decode()
    yield f"mkdir -p {folder} && printf '%s\\n' {bash_word(text)} > {folder}/{SEARCH}"
    load = _load(step, config, part, experiment)
    for arm in ARMS if step.repeat % 2 else reversed(ARMS):
        yield _search(step, limits, arm, folder, load)
    yield f"{GUARD} kvmatrix --capacity {folder} > {part}/run.jsonl"


def _search(step: Step, limits: Limits, arm: Arm, folder: Path, load: str) -> str:
    """The loop of one arm, without a shell of its own, which would outlive its parent.

    It ends with status 0 only if kvmatrix has said that there is no next rate.
    """
    made = f"{folder}/{arm}.part"
    probe = (
        f'{load} --requests "$requests" --rate "$rate" --arrival poisson --round {ROUND[arm]}'
        f' --salt={_salt(step, arm)} --max-failures "$requests" |'
        f" kvstats {_slo(limits)} > {made}"
    )
    prime = ""
    if arm == "hit":
        prime = (
            f'{{ [[ $primed == "$requests" ]] || {load} --requests "$requests"'
            f" --concurrency {PRIMERS} --round 1 --salt={_salt(step, arm)}"
            f" > {folder}/prime.part; }} && primed=$requests && \\\n\t"
        )
    return (
        f"{{ primed=; while next=$({GUARD} kvmatrix --next-rate {arm} {folder}) || next=failed;"
        f" [[ $next == [0-9]* ]]; do \\\n\t"
        f'read -r rate requests file <<<"$next";'
        f' echo "matrix: {TITLES[arm]}: $requests requests at $rate a second"; \\\n\t'
        f'{prime}{probe} && mv {made} {folder}/"$file" || break; \\\n\tdone; [[ -z $next ]]; }}'
    )


def _load(step: Step, config: Path, part: Path, experiment: str) -> str:
    """kvload's command up to what differs between probes.

    No sentinels: they would be misses among the hits, and cost more than all of them. A seed of
    its own gives each repeat other arrivals; both arms of it, at every rate, have the same.
    """
    scenario = step.scenario
    words = [
        *("kvload", "--config", str(config), "--scenarios", scenario.scenario),
        f"--name={scenario.name}",
        *("--repeat", str(step.repeat)),
        *("--experiment", experiment),
        *("--warmup", "1"),
        *scenario.overrides,
        *("--seed", str(scenario.seed + SEED_STRIDE * (step.repeat - 1))),
        *("--sentinels", "0"),
        *(("--isolation", f"{part}/isolation.json") if scenario.clearing else ()),
    ]
    return f"{GUARD} " + " ".join(map(bash_word, words))


def _salt(step: Step, arm: Arm) -> str:
    return "request" if arm == "no_reuse" else bash_word(step.salt)


def _slo(limits: Limits) -> str:
    return " ".join(f"--slo {name}={limit}" for name, limit in limits.slo.items())
