"""What does a chunk cost? Processor time of kvload's client per 100,000 streamed chunks.

A flat server in a process of its own writes, for all streams in turn, one chunk and one `send`
each, as an engine's step does. Against it run, each in a fresh process and in the same minute:

  wire     kvload's client, answers parsed after their end
  bare     the same without parsing
  aiohttp  the plain way: `async for line`, one json.loads a chunk

Absolute figures move with the machine; the ratios to aiohttp do not, and are what to look at.
`reads` says how many reads a chunk took: below 1 chunks were merged, since the client was late.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe

from kvload.answer import parse_answer
from kvload.client import Client, Target

WAYS = ("wire", "bare", "aiohttp")
BODY = json.dumps({"model": "m", "stream": True, "prompt": "x" * 512}).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How many streams, requests, chunks a request, and seconds between two steps."""

    streams: int
    requests: int
    chunks: int
    step_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one run of one way cost. CPU per chunk is that of the whole client process."""

    cpu_s: float
    wall_s: float
    chunks: int
    reads: int | None
    peak_mb: float


def event(content: str, finish: str = "null") -> bytes:
    """A chunk of vLLM's size and shape, framed."""
    data = (
        'data: {"id":"chatcmpl-bc7d85b4419d9d9e","object":"chat.completion.chunk",'
        '"created":1795156721,"model":"tiny","choices":[{"index":0,"delta":{"content":"'
        f'{content}"}},"logprobs":null,"finish_reason":{finish},"token_ids":null}}]}}\n\n'
    ).encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


class Stream(asyncio.Protocol):
    """One connection of the flat server."""

    def __init__(self, active: set[Stream], load: Load) -> None:
        self.active = active
        self.pieces = [event(f" word{n}") for n in range(load.chunks - 1)]
        self.pieces.append(event(" end", '"length"') + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        self.at = 0
        self.asked = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.asked += data
        if self.asked.endswith(BODY):
            self.asked = b""
            self.transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            self.at = 0
            self.active.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.active.discard(self)

    def step(self) -> None:
        self.transport.write(self.pieces[self.at])
        self.at += 1
        if self.at == len(self.pieces):
            self.active.discard(self)


def serve(pipe: Pipe, load: Load) -> None:
    async def main() -> None:
        active: set[Stream] = set()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Stream(active, load), "127.0.0.1", 0, backlog=1024
        )
        pipe.send(server.sockets[0].getsockname()[1])
        while True:
            for stream in list(active):
                stream.step()
            await asyncio.sleep(load.step_s if active else 0.001)

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())


async def with_kvload(port: int, load: Load, *, parse: bool) -> tuple[int, int | None]:
    client = Client(Target.parse(f"http://127.0.0.1:{port}"), timeout_s=600)
    await client.open(load.streams)
    reads = 0

    async def one(n: int) -> int:
        nonlocal reads
        exchange = await client.send(BODY, f"r{n}")
        if exchange.error is not None:
            raise SystemExit(f"wire: {exchange.error}")
        reads += len(exchange.raw)
        if not parse:
            return load.chunks
        answer = parse_answer(exchange)
        if answer.status != "ok":
            raise SystemExit(f"wire: {answer.error}")
        return len(answer.chunk_ns)

    chunks = await in_slots(load, one)
    await client.close()
    return chunks, reads


async def with_aiohttp(port: int, load: Load) -> tuple[int, int | None]:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one(n: int) -> int:
            stamps = []
            text = []
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            async with session.post(url, data=BODY) as answer:
                async for line in answer.content:
                    if line.startswith(b"data: ") and line != b"data: [DONE]\n":
                        stamps.append(time.perf_counter_ns())
                        text.append(json.loads(line[6:])["choices"][0]["delta"]["content"])
            return len(stamps)

        return await in_slots(load, one), None


async def in_slots(load: Load, one: Callable[[int], Awaitable[int]]) -> int:
    """`one` for each request, `streams` of them at a time; the sum of what they return."""
    numbers = iter(range(load.requests))
    total = 0

    async def worker() -> None:
        nonlocal total
        for n in numbers:
            got = await one(n)  # awaited first: others add while we wait
            total += got

    await asyncio.gather(*(worker() for _ in range(load.streams)))
    return total


def measure(pipe: Pipe, way: str, port: int, load: Load) -> None:
    async def main() -> tuple[int, int | None]:
        if way == "aiohttp":
            return await with_aiohttp(port, load)
        return await with_kvload(port, load, parse=way == "wire")

    import aiohttp  # noqa: F401  the import's own time is nobody's chunk

    gc.collect()
    gc.freeze()
    gc.disable()
    cpu, wall = time.process_time(), time.perf_counter()
    chunks, reads = asyncio.run(main())
    pipe.send(
        Cost(
            cpu_s=time.process_time() - cpu,
            wall_s=time.perf_counter() - wall,
            chunks=chunks,
            reads=reads,
            peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )
    )


def run(way: str, load: Load) -> Cost:
    """A fresh server and a fresh client."""
    spawn = multiprocessing.get_context("spawn")
    told, telling = spawn.Pipe()
    server = spawn.Process(target=serve, args=(telling, load), daemon=True)
    server.start()
    client = spawn.Process(target=measure, args=(telling, way, told.recv(), load), daemon=True)
    client.start()
    cost: Cost = told.recv()
    client.join()
    server.terminate()
    server.join()
    if cost.chunks != load.requests * load.chunks:
        raise SystemExit(f"{way}: {cost.chunks} chunks of {load.requests * load.chunks}")
    return cost


def main() -> None:
    args = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    args.add_argument("--streams", type=int, default=64)
    args.add_argument("--requests", type=int, default=1500)
    args.add_argument("--chunks", type=int, default=64, help="per request (default: 64)")
    args.add_argument("--step", type=float, default=0.0, help="seconds between steps; 0: flat out")
    args.add_argument("--runs", type=int, default=3)
    args.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS)
    asked = args.parse_args()
    load = Load(
        streams=asked.streams, requests=asked.requests, chunks=asked.chunks, step_s=asked.step
    )
    costs: dict[str, list[Cost]] = {way: [] for way in asked.ways}
    for _ in range(asked.runs):
        for way in asked.ways:
            costs[way].append(run(way, load))
    print(f"{'':8} {'CPU s/100k':>11} {'ratio':>6} {'req/s':>7} {'reads':>6} {'MB':>5}")
    base = statistics.median(c.cpu_s / c.chunks for c in costs[asked.ways[-1]])
    for way, seen in costs.items():
        middle = sorted(seen, key=lambda c: c.cpu_s / c.chunks)[len(seen) // 2]
        per_chunk = middle.cpu_s / middle.chunks
        reads = "-" if middle.reads is None else f"{middle.reads / middle.chunks:.2f}"
        print(
            f"{way:8} {per_chunk * 100_000:11.3f} {per_chunk / base:6.2f}"
            f" {load.requests / middle.wall_s:7.0f} {reads:>6} {middle.peak_mb:5.0f}"
        )


if __name__ == "__main__":
    main()
