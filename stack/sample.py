"""A piece of a trace in which conversations come soon again: some of them whole, the others not.

    python stack/sample.py TRACE [--one-in 20] [--which 3] [--longest 100] [--blocks 1000] > PIECE

A window of a thousand blocks out of a busy service holds nearly no reuse: whoever comes back does
so after thousands of blocks of others. Keeping one conversation in twenty, whole, keeps what is
reused of each and makes all distances twenty times shorter (spatial sampling, as Waldspurger et
al., "Efficient MRC Construction with SHARDS", FAST '15, do it for disks). A conversation is told by
its second block, since nearly all of a trace's requests share the first. Requests longer than a
small model takes are left out. TRACE is JSON lines, packed by gzip or not.
"""

import argparse
import gzip
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path


def sample(
    lines: Iterable[bytes], *, one_in: int, which: int, longest: int, blocks: int
) -> Iterator[bytes]:
    """Lines of the trace as they stand, up to `blocks` of their blocks in all."""
    left = blocks
    for line in lines:
        ids = json.loads(line)["hash_ids"]
        if not 1 < len(ids) <= longest or ids[1] % one_in != which:
            continue
        left -= len(ids)
        if left < 0:
            return
        yield line


def main() -> None:
    parser = argparse.ArgumentParser(prog="sample.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("trace", type=Path)
    parser.add_argument("--one-in", type=int, default=20, help="conversations [20]")
    parser.add_argument("--which", type=int, default=3, help="of those, from 0 [3]")
    parser.add_argument("--longest", type=int, default=100, help="blocks of a request [100]")
    parser.add_argument("--blocks", type=int, default=1000, help="in all, at most [1000]")
    options = parser.parse_args()
    packed = options.trace.open("rb").read(2) == b"\x1f\x8b"
    with gzip.open(options.trace) if packed else options.trace.open("rb") as lines:
        for line in sample(
            lines,
            one_in=options.one_in,
            which=options.which,
            longest=options.longest,
            blocks=options.blocks,
        ):
            sys.stdout.buffer.write(line)


if __name__ == "__main__":
    main()
