"""kvload and its peers under the same loads in the same minutes, against the same server.

  python -m bench.bench_peers --label two-cores          `make bench-peers` installs them before

In each of the runs every client takes its turn, so that a change of the machine meets all of them.
The server has the last processor to itself as far as it can; clients may use all of them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bench.against import run_kvload_like_a_peer, run_peer
from bench.conditions import conditions
from bench.kept import folder_of, keep, table
from bench.loads import FLAT_OUT, HUNDRED, THOUSAND, BenchError, Load
from bench.peers import PEERS, Peer

LOADS = (FLAT_OUT, HUNDRED, THOUSAND)
Measure = Callable[[Load], dict[str, float]]


@dataclass(slots=True, kw_only=True)
class Client:
    """kvload or a peer, and what has been measured of it."""

    name: str
    version: str | None
    measure: Measure
    flat_share: float = 1.0
    turns: int
    runs: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def turn(self, load: Load) -> None:
        """One run; a load that failed is not tried again."""
        if load.name in self.failures:
            return
        own = load
        if load.itl_ms == 0:
            least = 2 * (load.streams or 1)
            own = replace(load, requests=max(least, round(load.requests * self.flat_share)))
        began = time.monotonic()
        try:
            self.runs.setdefault(load.name, []).append(self.measure(own))
            said = "ok"
        except BenchError as error:
            self.failures[load.name] = said = str(error)
        took = time.monotonic() - began
        print(f"bench-peers: {self.name}, {load.name}: {took:.0f} s, {said}", file=sys.stderr)

    def median(self, load: Load, figure: str) -> float | None:
        """Over the runs; null where none told it."""
        seen = [run[figure] for run in self.runs.get(load.name, []) if figure in run]
        return statistics.median(seen) if seen else None


def main() -> int:
    """Measure, print, keep."""
    asked = _arguments()
    found = conditions()
    missing = {peer.name: why for peer in PEERS if (why := peer.why_not()) is not None}
    clients = [
        Client(
            name="kvload", version=found["kvload"], measure=_kvload(asked.port), turns=asked.runs
        )
    ]  # fmt: skip
    for peer in PEERS:
        wanted = not asked.alone and (not asked.peer or peer.name in asked.peer)
        if wanted and peer.name not in missing:
            clients.append(
                Client(
                    name=peer.name, version=peer.version(), measure=_peer(peer, asked.port),
                    flat_share=peer.requests_share,
                    turns=asked.every if peer.slow else asked.runs,
                )
            )  # fmt: skip
    loads = [
        load.shrunk(asked.share) for load in LOADS if not asked.load or load.name in asked.load
    ]
    began = time.monotonic()
    for turn in range(max(asked.runs, asked.every)):
        for load in loads:
            for client in clients:
                if turn < client.turns:
                    client.turn(load)
    page = render(clients, loads, missing, asked.runs)
    print("\n".join(page))
    if asked.label:
        folder = folder_of(asked.label)
        found["minutes"] = round((time.monotonic() - began) / 60, 1)
        found["command"] = "make bench-peers"
        kept = {
            "conditions": found,
            "runs": asked.runs,
            "clients": [
                {"name": one.name, "version": one.version, "runs": one.runs, "failed": one.failures}
                for one in clients
            ],
            "not_run": missing,
        }
        keep(folder, "peers", kept, ["# kvload and its peers", "", *page])
        print(f"bench-peers: kept in {folder}", file=sys.stderr)
    return 0 if clients[0].runs else 2


def _arguments() -> argparse.Namespace:
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--runs", type=int, default=3, help="turns of each client (default: 3)")
    args.add_argument("--every", type=int, default=1, help="turns of the slow ones (default: 1)")
    args.add_argument("--peer", action="append", choices=[peer.name for peer in PEERS])
    args.add_argument("--load", action="append", choices=[load.name for load in LOADS])
    args.add_argument("--share", type=float, default=1.0, help="of the streams and requests")
    args.add_argument("--port", type=int, default=0, help="of the server (default: a free one)")
    args.add_argument("--alone", action="store_true", help="kvload only")
    args.add_argument("--label", help="keep the page in bench/runs/DATE-LABEL")
    return args.parse_args()


def _kvload(port: int) -> Measure:
    return lambda load: run_kvload_like_a_peer(load, port=port)


def _peer(peer: Peer, port: int) -> Measure:
    return lambda load: run_peer(peer, load, port=port)


def render(
    clients: Sequence[Client], loads: Sequence[Load], missing: Mapping[str, str], runs: int
) -> list[str]:
    """The tables, as Markdown."""
    others = [one for one in clients if one.turns != runs]
    once = f" (of {others[0].turns}: {', '.join(one.name for one in others)})" if others else ""
    lines = [f"Medians of {runs} runs, taken in turns{once}."]
    lines += ["TTFT and gap errors in ms: each client's own report less the server's log at the"]
    lines += ["same percentile.", ""]
    flat = [load for load in loads if load.itl_ms == 0]
    paced = [load for load in loads if load.itl_ms > 0]
    for load in flat:
        lines += [f"**{load.name}**, {load.tokens} chunks each", "", *_flat(clients, load), ""]
    for load in paced:
        lines += [
            f"**{load.name}**, TTFT {load.ttft_ms:g} ms, a chunk every {load.itl_ms:g} ms", "",
            *_paced(clients, load), "",
        ]  # fmt: skip
    told: list[Any] = [(name, why) for name, why in missing.items()]
    told += [(f"{c.name}, {name}", why) for c in clients for name, why in c.failures.items()]
    if told:
        lines += ["Not measured:", "", *(f"- {name}: {why}" for name, why in told), ""]
    return lines


def _flat(clients: Sequence[Client], load: Load) -> list[str]:
    ours_rps, ours_cpu = clients[0].median(load, "rps"), clients[0].median(load, "cpu_whole")
    head = ["client", "version", "req/s", "CPU s/100k", "until gone", "MB", "start s"]
    head += ["kvload's req/s", "kvload's CPU"]
    rows = []
    for client in clients:
        rps, cpu = client.median(load, "rps"), client.median(load, "cpu_loaded")
        if rps is None or cpu is None:
            continue
        rows.append(
            [
                client.name, client.version or "?", f"{rps:,.0f}", f"{cpu:.2f}",
                _cell(client.median(load, "cpu_whole"), ".2f"),
                _cell(client.median(load, "peak_mb"), ".0f"),
                _cell(client.median(load, "start_s"), ".1f"),
                "-" if ours_rps is None else f"{ours_rps / rps:.2f} x",
                "-" if ours_cpu is None else f"{ours_cpu / cpu:.2f} x",
            ]
        )  # fmt: skip
    return table(head, rows)


def _paced(clients: Sequence[Client], load: Load) -> list[str]:
    head = ["client", "TTFT p50", "TTFT p99", "gap p99", "CPU s/100k", "until gone", "MB"]
    rows = []
    for client in clients:
        if load.name not in client.runs:
            continue
        rows.append(
            [
                client.name,
                _cell(client.median(load, "ttft_p50"), "+.2f"),
                _cell(client.median(load, "ttft_p99"), "+.2f"),
                _cell(client.median(load, "gap_p99"), "+.3f"),
                _cell(client.median(load, "cpu_loaded"), ".2f"),
                _cell(client.median(load, "cpu_whole"), ".2f"),
                _cell(client.median(load, "peak_mb"), ".0f"),
            ]
        )
    return table(head, rows)


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


if __name__ == "__main__":
    sys.exit(main())
