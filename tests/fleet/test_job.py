"""The Kubernetes manifest: what it says, as far as no cluster is needed, and its command, run.

`tests/data/kubernetes` holds the names and types that Kubernetes has for what it says.
"""

from __future__ import annotations

import copy
import gzip
import json
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.family import ROOT, environment
from tests.simulated import FAST, kvsim

TEXT = (ROOT / "fleet" / "job.yaml").read_text(encoding="utf-8")
JOB: dict[str, Any] = yaml.safe_load(TEXT)
SCHEMA = json.loads((ROOT / "tests/data/kubernetes/job-1.29.json").read_text(encoding="utf-8"))
POD: dict[str, Any] = JOB["spec"]["template"]["spec"]
CONTAINER: dict[str, Any] = POD["containers"][0]
KEY = "s3cr3t-k8s-k3y"


def test_kubernetes_knows_every_word_of_it() -> None:
    jsonschema.validate(JOB, SCHEMA)
    for wrong in ("spec", "template", "container"):
        job = copy.deepcopy(JOB)
        place = {
            "spec": job["spec"],
            "template": job["spec"]["template"],
            "container": job["spec"]["template"]["spec"]["containers"][0],
        }[wrong]
        place["backofLimit"] = 0
        with pytest.raises(jsonschema.ValidationError, match="backofLimit"):
            jsonschema.validate(job, SCHEMA)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="not installed: kubectl")
def test_kubectl_keeps_every_word_of_it() -> None:
    """What its own types do not know, kubectl drops; here it drops nothing but empty texts."""
    assert _without(JOB, _by_kubectl(JOB)) == ["value: 5", "env.value"]
    wrong = copy.deepcopy(JOB)
    wrong["spec"]["backofLimit"] = 0
    assert _without(wrong, _by_kubectl(wrong)) == ["spec.backofLimit", "value: 5", "env.value"]


def _by_kubectl(job: dict[str, Any]) -> dict[str, Any]:
    """The Job as kubectl writes it that has read it; one of its variables is set anew."""
    shown = subprocess.run(
        ["kubectl", "set", "env", "--local", "-f", "-", "SHARDS=5", "-o", "json"],
        input=json.dumps(job).encode(), env=environment() | {"KUBECONFIG": "/dev/null"},
        capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(shown.stdout)
    return found


def _without(given: Any, kept: Any, place: str = "") -> list[str]:
    if isinstance(given, dict):
        lost = [f"{place}.{key}" for key in given if key not in kept]
        return lost + [
            one for key in given if key in kept for one in _without(given[key], kept[key], key)
        ]
    if isinstance(given, list):
        pairs = zip(given, kept, strict=True)
        return [one for first, second in pairs for one in _without(first, second, place)]
    return [] if given == kept else [f"{place}: {kept}"]


def test_a_lost_pod_is_a_lost_shard_and_no_other_ends_with_it() -> None:
    spec = JOB["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(_values()["SHARDS"])
    assert spec["backoffLimitPerIndex"] == 0 and "backoffLimit" not in spec
    assert (POD["restartPolicy"], spec["podReplacementPolicy"]) == ("Never", "Failed")


def test_the_pod_has_no_rights_that_it_does_not_need() -> None:
    pod, own = POD["securityContext"], CONTAINER["securityContext"]
    assert pod["runAsNonRoot"] and f"--uid {pod['runAsUser']} " in _image()
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own["readOnlyRootFilesystem"] and not own["allowPrivilegeEscalation"]
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert POD["automountServiceAccountToken"] is False
    assert not [one for one in CONTAINER["env"] if "secretKeyRef" in str(one)]


def _image() -> str:
    return (ROOT / "compose" / "Dockerfile").read_text(encoding="utf-8")


def _values() -> dict[str, str]:
    return {one["name"]: one["value"] for one in CONTAINER["env"] if "value" in one}


def _from_config(config: dict[str, str]) -> dict[str, str]:
    found = {}
    for one in CONTAINER["env"]:
        if "valueFrom" in one:
            reference = one["valueFrom"]["configMapKeyRef"]
            assert reference["name"] == "fleet"
            found[one["name"]] = config[reference["key"]]
    return found


def _begun(index: int, config: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    """A pod of the Job: its command, its environment, its log."""
    here = {
        "JOB_COMPLETION_INDEX": str(index),
        "PLAN": str(folder / "plan.jsonl.gz"),
        "KEY": str(folder / "api-key"),
        "ERRORS": str(folder / f"errors.{index}"),
    }
    assert here.keys() - {"JOB_COMPLETION_INDEX"} <= _values().keys()
    with (folder / f"pod.{index}.jsonl").open("wb") as log:
        return subprocess.Popen(
            [*CONTAINER["command"], *CONTAINER["args"]], cwd=folder, stdout=log, stderr=log,
            env=environment() | _values() | _from_config(config) | here,
        )  # fmt: skip


def test_four_pods_are_one_round(tmp_path: Path) -> None:
    """The manifest's own command, by a shell for each index, all at once."""
    made = subprocess.run(
        ["kvplan", "-q", "--scenario", "long_context_high_reuse", "--contexts", "8", "--requests",
         "24", "--context-tokens", "300", "--output-tokens", "4"],
        env=environment(), capture_output=True, check=True,
    ).stdout  # fmt: skip
    (tmp_path / "plan.jsonl.gz").write_bytes(gzip.compress(made))
    (tmp_path / "api-key").write_text(KEY)
    with kvsim(*FAST, "--api-key", KEY) as sim:
        for room_s in (5, 20, 60):
            config = {
                "url": sim.url,
                "flags": "--rate 40 --warmup 0",
                "experiment": f"k8s-{room_s}",
                "round": "1",
                "start-at": str(int(time.time()) + room_s),
            }
            pods = [_begun(index, config, tmp_path) for index in range(4)]
            statuses = [pod.wait(120) for pod in pods]
            said = "".join((tmp_path / f"errors.{index}").read_text() for index in range(4))
            if "leaves room" not in said:
                break
    assert statuses == [0, 0, 0, 0], said
    logs = [tmp_path / f"pod.{index}.jsonl" for index in range(4)]
    merged = subprocess.run(
        ["kvstats", *logs], env=environment(), capture_output=True, text=True, check=False
    )
    assert (merged.returncode, merged.stderr) == (0, "")
    stats = json.loads(merged.stdout)
    assert [run["shard"] for run in stats["run"]] == ["0/4", "1/4", "2/4", "3/4"]
    assert stats["complete"] and stats["total_requests"] == 24
    assert stats["cold_proof"] == "proven"
    planned = Counter(json.loads(line)["index"] for line in made.splitlines()[1:])
    records = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    assert Counter(one["index"] for one in records if one["record"] == "request") == planned
    assert KEY not in "".join(log.read_text() for log in logs)
