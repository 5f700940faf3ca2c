"""Matrices for the tests: written to a folder, run by make as a person would, killed on demand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.family import ROOT, environment

QUICK = ("--fault", "no_metrics", "--prefill-tps", "60000", "--step-ms", "1", "--overhead-ms", "1")
"""An engine without /metrics: the barriers have nothing to wait for, and a repeat takes a second"""

RUN_CONFIG: dict[str, Any] = {
    "pause_between_rounds": 0,
    "scenarios": {
        "cold_start": {"requests": 3, "context_tokens": 300, "output_tokens": 3},
        "long_context_high_reuse": {
            "requests": 6,
            "contexts": 2,
            "context_tokens": 600,
            "output_tokens": 3,
        },
    },
}


REPORTS = ["md", "json", "text"]
"""Charts take longer to draw than a repeat to run; one test has them."""


def clean_environment() -> dict[str, str]:
    """Without what a make around the tests has left there."""
    return {
        key: value
        for key, value in environment().items()
        if not key.startswith(("MAKE", "MFLAGS", "KV_"))
    }


@dataclass(frozen=True, slots=True)
class Site:
    """A folder with a matrix and its run configs."""

    folder: Path

    def config(self, name: str, url: str, **keys: Any) -> str:
        value = RUN_CONFIG | {"proxy": {"url": url}} | keys
        (self.folder / name).write_text(json.dumps(value), encoding="utf-8")  # JSON is YAML
        return name

    def matrix(self, scenarios: list[dict[str, Any]], name: str = "m.yaml", **keys: Any) -> Path:
        value = {"output_dir": "out", "formats": REPORTS, "test_scenarios": scenarios} | keys
        path = self.folder / name
        path.write_text(json.dumps(value, ensure_ascii=True), encoding="utf-8")
        return path

    def start(self, command: str) -> subprocess.Popen[str]:
        """A shell command in the folder, in a process group of its own."""
        return subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str, timeout_s: float = 300) -> tuple[int, str]:
        """(status, what it said) of a command; nothing of it is left behind."""
        with self.start(command) as process:
            try:
                said, _ = process.communicate(timeout=timeout_s)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return process.returncode, said

    def make(self, matrix: str = "m.yaml", flags: str = "") -> tuple[int, str]:
        return self.run(f"kvmatrix {matrix} -q {flags} | make -f -")

    def runs(self, out: str = "out") -> list[Path]:
        """Published records, one file a repeat and attempt."""
        return sorted((self.folder / out).glob("*/repeat-*/attempt-*[0-9]/run.jsonl"))

    def stats(self, out: str = "out") -> list[dict[str, Any]]:
        """Every line of every scenario's statistics."""
        files = sorted((self.folder / out).glob("*/stats.json"))
        return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]


MAKE = f"make --no-print-directory -C {ROOT} -o .venv/installed.stamp"
"""The repository's own Makefile; what is installed is taken as it is."""
