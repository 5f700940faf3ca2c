"""Schemathesis against a running kvsim: does it answer as its OpenAPI document says?

It lives in an environment of its own (`make schemathesis`): its dependencies are none of ours.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass

from tests.family import ROOT, environment

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
COMMAND = ROOT / ".venv-fuzz" / "bin" / "st"
INSTANT = ("--step-ms", "0", "--overhead-ms", "0", "--prefill-tps", "100000000")
NODES = {
    "a node": ("--max-model-len", "256"),
    "flat": ("--max-model-len", "256", "--flat", "--ttft-ms", "0", "--itl-ms", "0"),
    "an old node with a key": (
        *("--max-model-len", "256", "--api-key", "k", "--vllm-version", "0.26.0"),
        "--per-request-metrics",
    ),
}
"""Flags of the nodes that are asked: short answers, for what is asked has no limit else."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`cases`: requests sent; `said`: everything, for people."""

    ok: bool
    cases: int
    said: str


def held_to_its_document(url: str, examples: int, *, seed: int | None, limit_s: float) -> Verdict:
    """Every route but the one that switches faults on, with good and bad requests."""
    command = [
        *(COMMAND, "run", f"{url}/openapi.json", "--checks", ",".join(CHECKS)),
        *("--exclude-path", "/kvsim/fault", "--max-examples", str(examples), "--no-color"),
        *("--header", "Authorization: Bearer k"),
        *(("--seed", str(seed)) if seed is not None else ()),
    ]
    with tempfile.TemporaryDirectory(prefix="schemathesis-") as folder:  # it leaves its own there
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", timeout=limit_s, check=False,
            env=environment(), cwd=folder,
        )  # fmt: skip
    cases = re.search(r"([\d,]+) generated", done.stdout)
    return Verdict(
        ok=done.returncode == 0,
        cases=int(cases[1].replace(",", "")) if cases else 0,
        said=done.stdout + done.stderr,
    )
