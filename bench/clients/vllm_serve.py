"""`vllm bench serve`, without the rest of vLLM's command line.

That asks for the metadata of a package named vllm, and the CPU build goes by another name. The
benchmark, its flags and its defaults are vLLM's own.
"""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser

from vllm.benchmarks.serve import add_cli_args, main_async

flags = ArgumentParser(prog="vllm bench serve")
add_cli_args(flags)
asyncio.run(main_async(flags.parse_args()))
