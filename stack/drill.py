"""The cache-loss drill: what happens to requests when the store dies in the middle of a hit round?

    python stack/drill.py [--simulated] [--fault NAME]... [--requests N] [--after K] [OUT]

Two nodes around one store (vLLM and Mooncake; with --simulated kvsim). For each fault one `kvload`
measures node B without reuse, lets A compute and store, and lets B hit; when K of the hit round's
requests have been answered, the fault comes. Then, each in a round of its own:

  down      the same prompts on B with nothing repaired (its own cache reset): what comes back by
            itself?
  repaired  the same prompts again after the repair: are the old blocks still worth something?
  anew      an experiment in a new namespace, A to B: does the store give and take again?

If it does, and comes to rest, the next fault finds the same stack; else a new one is started.
OUT/FAULT has the records of each and `fault.json`, when what was done; OUT/drill.jsonl a line for
each fault and phase, OUT/drill.md the table of them (drill_table.py makes both; it is printed).
Exit status: 0 it ran, whatever was lost; 2 it could not run. Needs the project's tools on PATH.
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import places
from arrangement import SERVED_NAME
from drill_faults import FAULTS, Fault
from drill_site import Site, say, site_up
from drill_table import lines_of, write_tables
from processes import StackError

PHASES = ("hit", "down", "repaired", "anew")
POLL_S = 0.01
RESET_S = 20.0  # that a node may refuse to reset because saves are under way
PATIENCE_S = 600.0  # of one kvload


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is sent in each round."""

    requests: int
    context_tokens: int
    after: int
    warmup: int
    timeout_s: float

    def flags(self) -> list[str]:
        """Every request has a context of its own, so that each hit must come from the store."""
        return [
            *("--scenario", "long_context_high_reuse", "--shared-ratio", "1"),
            *("--requests", str(self.requests), "--contexts", str(self.requests)),
            *("--context-tokens", str(self.context_tokens), "--output-tokens", "8"),
            *("--sentinels", "3", "--pause", "0", "--timeout", str(self.timeout_s)),
            *("--tier", "remote", "--keep-output", "--max-failures", str(self.requests + 3)),
        ]


class Drill:
    """One fault from beginning to end."""

    def __init__(self, site: Site, fault: Fault, load: Load, folder: Path) -> None:
        self.site, self.fault, self.load, self.folder = site, fault, load, folder
        self.told: dict[str, Any] = {"fault": fault.name, "what": fault.what, "after": load.after}

    @property
    def simulated(self) -> bool:
        return "kvsim" in self.site.plan.store.command

    def run(self) -> None:
        a, b = self.site.plan.node_urls
        own = ["--experiment", f"drill-{self.fault.name}", "--name", self.fault.name]
        old = [*own, "--salt", f"drill-{time.time_ns()}"]
        between = ["--url", f"1={a}", "--url", f"2={b}", "--warmup", str(self.load.warmup)]
        with self.loading("hit", [*between, *old]) as kvload:
            self.strike_in(kvload)
        self.told["dead_after"] = self.site.dead()
        self.told["health_after"] = self.site.health()
        self.same_again("down", 3, old)
        self.told["repair"] = self.fault.repair
        self.told["repair_began_ns"] = time.time_ns()
        self.told["started_again"] = self.site.repair(self.fault)
        self.told["repaired_ns"] = time.time_ns()
        self.same_again("repaired", 4, old)
        name = ["--name", f"{self.fault.name}, anew", "--warmup", "0"]
        with self.loading("anew", [*between, *own, *name]):
            pass
        (self.folder / "fault.json").write_text(json.dumps(self.told) + "\n", encoding="utf-8")
        self.judge()

    def judge(self) -> None:
        """kvstats over all rounds of the fault; 1 is its answer to a round with errors."""
        phases = [str(self.records(phase)) for phase in PHASES]
        with (self.folder / "stats.jsonl").open("wb") as out, self.log("stats").open("wb") as err:
            popen = self.site.group.popen(["kvstats", *phases], stdout=out, stderr=err)
            if popen.wait(PATIENCE_S) not in (0, 1):
                raise StackError(f"kvstats failed; see {self.log('stats')}")

    def whole(self) -> bool:
        """Whether all hits came at the end, and it came to rest: the stack is as it was."""
        [anew] = [one for one in lines_of(self.folder) if one["phase"] == "anew"]
        return anew["hit"] == anew["requests"] and anew["barrier"] == "quiet"

    def same_again(self, phase: str, round_num: int, flags: Sequence[str]) -> None:
        """The old prompts on B, whose own cache is reset first."""
        b = self.site.plan.node_urls[1]
        self.told[f"reset_{phase}"] = reset(b)
        only = ["--url", f"{round_num}={b}", "--round", str(round_num), "--warmup", "0"]
        with self.loading(phase, [*only, *flags]):
            pass

    @contextlib.contextmanager
    def loading(self, phase: str, flags: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
        """kvload with its records in a file of the phase; waited for afterwards."""
        say(f"{self.fault.name}: {phase}")
        model = [] if self.simulated else ["--model", SERVED_NAME]
        # kvload does not begin beside a store that was named and is not there.
        alive = phase != "down"
        store = ["--metrics-url", f"store={self.site.plan.store_url}"] if alive else []
        command = ["kvload", *self.load.flags(), *model, *store, *flags]
        with self.records(phase).open("wb") as out, self.log(phase).open("wb") as err:
            popen = self.site.group.popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
            yield popen
            status = popen.wait(PATIENCE_S)
        self.told.setdefault("kvload", {})[phase] = status
        if status:
            last = self.log(phase).read_text("utf-8", "replace").strip().splitlines()[-1:]
            say(f"  kvload ended with {status}: {' '.join(last)}")

    def records(self, phase: str) -> Path:
        return self.folder / f"{phase}.jsonl"

    def log(self, phase: str) -> Path:
        return self.folder / f"{phase}.log"

    def strike_in(self, kvload: subprocess.Popen[bytes]) -> None:
        """The fault, as soon as enough requests of the hit round have been answered."""
        with self.records("hit").open("rb") as stream:
            watched = Watched(stream)
            while watched.answered < self.load.after:
                if kvload.poll() is not None:
                    raise StackError(f"kvload ended early; see {self.log('hit')}")
                time.sleep(POLL_S)
                watched.look()
        self.told["answered"] = watched.answered
        self.told["struck_ns"] = time.time_ns()
        self.site.strike(self.fault)
        self.told["done_ns"] = time.time_ns()
        say(f"{self.fault.name}: {self.fault.what}, after {watched.answered} requests")


class Watched:
    """Counts the answers of the hit round in a growing file of records."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._rest = b""
        self._hit: str | None = None
        self.answered = 0

    def look(self) -> None:
        """Take what has been written since."""
        *lines, self._rest = (self._rest + self._stream.read()).split(b"\n")
        for line in lines:
            record = json.loads(line)
            if record["record"] == "run" and record["arm"] == "hit":
                self._hit = record["run_id"]
            elif record["record"] == "request" and record["run_id"] == self._hit:
                self.answered += record["stratum"] != "sentinel"


def reset(url: str) -> bool:
    """Forget B's own cache; False where it refused for too long or did not answer."""
    deadline = time.monotonic() + RESET_S
    request = urllib.request.Request(f"{url}/reset_prefix_cache", method="POST")
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                if json.load(answer)["success"]:
                    return True
        except (urllib.error.URLError, OSError, ValueError, KeyError):
            pass
        time.sleep(0.2)
    return False


def parse(argv: Sequence[str]) -> argparse.Namespace:
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="drill.py", description=summary, epilog=rest, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "out", type=Path, metavar="OUT", nargs="?", default=Path("drill-out"), help="[drill-out]"
    )
    parser.add_argument("--simulated", action="store_true", help="kvsim instead of engines")
    parser.add_argument(
        "--fault", action="append", choices=FAULTS, help="only this one; repeatable [all]"
    )
    parser.add_argument("--requests", type=int, default=12, help="of a round [12]")
    parser.add_argument("--after", type=int, default=4, help="the fault comes after K [4]")
    parser.add_argument("--context-tokens", type=int, default=1500, help="of a prompt [1500]")
    parser.add_argument("--timeout", type=float, default=20.0, help="of a request, in seconds [20]")
    parser.add_argument("--warmup", type=int, default=1, metavar="N", help="passes at most [1]")
    options = parser.parse_args(argv)
    odd = [name for name in options.fault or () if not FAULTS[name].simulated]
    if options.simulated and odd:
        parser.error(f"--fault {odd[0]}: not with --simulated, since kvsim's store owns the blocks")
    if not 0 < options.after < options.requests:
        parser.error(f"--after {options.after}: between 1 and --requests {options.requests} - 1")
    return options


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    if not options.simulated and (missing := places.why_not_installed()):
        say(missing)
        return 2
    load = Load(
        requests=options.requests,
        context_tokens=options.context_tokens,
        after=options.after,
        warmup=options.warmup,
        timeout_s=options.timeout,
    )
    faults = [FAULTS[name] for name in options.fault or FAULTS]
    if options.simulated:
        faults = [one for one in faults if one.simulated]
    try:
        run(faults, load, options.out.resolve(), simulate=options.simulated)
    except (StackError, OSError, subprocess.TimeoutExpired) as error:
        say(str(error))
        return 2
    return 0


def run(faults: Sequence[Fault], load: Load, out: Path, *, simulate: bool) -> None:
    """Every fault, and the table of all."""
    shutil.rmtree(out / "logs", ignore_errors=True)
    with contextlib.ExitStack() as up:
        site, policy = None, ""
        for fault in faults:
            if site is None or fault.policy != policy:
                up.close()
                policy = fault.policy
                logs = out / "logs" / f"before-{fault.name}"
                site = up.enter_context(site_up(logs, policy, simulate=simulate))
            folder = out / fault.name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            drill = Drill(site, fault, load, folder)
            drill.run()
            if not drill.whole():
                say(f"{fault.name}: not as it was before: a new stack for the next fault")
                site = None
    print(write_tables(out, [fault.name for fault in faults]), end="")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
