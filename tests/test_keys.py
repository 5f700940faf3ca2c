"""Keys and passwords: who is given them, and where they never stand."""

from __future__ import annotations

import io
import json
import shutil
import socket
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from tests.fakeserver import FakeServer, Hang, Received, Reply, sized_answer
from tests.family import environment
from tests.faulty import Faulty, kvload, records, workload
from tests.simulated import kvsim

from kvengine.access import headers
from kvengine.server import Server, Unreachable
from kvengine.urls import redact, redact_all, without_credentials
from kvload import plans
from kvload.cli import experiments_of, parser
from kvload.console import Console
from kvload.target import Target
from kvmatrix.matrix import read_matrix
from kvpipe.process import ToolError, UsageError

SECRET = "s3cr3t-k3y"
COLD = ["--scenario", "cold_start"]
SENT = {"X-Api-Key": SECRET}


# --- redaction -----------------------------------------------------------------------------------

URLS = [
    f"http://user:{SECRET}@h:1/v1",
    f"vllm=http://user:{SECRET}@h:1",
    f"http://user:{SECRET}@h:port",
    f"http://user:pass/{SECRET}@h",
    f"http://{SECRET}@[::1",
    f"user:{SECRET}@h:8000",
    f"http://h/x?api_key={SECRET}&force=true",
    f"http://h:port/x?to%6Ben={SECRET}",
    f"curl -H 'Authorization: Bearer {SECRET}' http://h/",
    f"curl http://user:{SECRET}@h/x?token={SECRET}",
    f"see http://a/ and https://u:{SECRET}@b/",
]


@pytest.mark.parametrize("text", URLS)
def test_no_text_keeps_its_secret(text: str) -> None:
    assert SECRET not in redact(text)
    assert SECRET not in json.dumps(redact_all({"a": [text, {"b": text}], "c": 1}))


def test_what_has_no_secret_stays() -> None:
    for text in (
        "docker restart vllm",
        "https://h/p?x=a@b",
        "ratio=1:2",
        "vllm=http://h:1",
        "",
        "a@b",
    ):
        assert redact(text) == text


@pytest.mark.parametrize(
    "flags",
    [
        ("--engine", f"lmcache=http://u:{SECRET}@h:1"),
        ("--engine", f"nothing-http://u:{SECRET}@h"),
        ("--metrics-url", f"who=http://u:{SECRET}@h:1"),
        ("--url", f"http://u:{SECRET}@h:port"),
        ("--url", f"u:{SECRET}@h:8000"),
        ("--header", SECRET),
    ],
)
def test_a_usage_error_does_not_quote_a_secret(flags: tuple[str, str]) -> None:
    url = [] if flags[0] == "--url" else ["--url", "http://h:1"]
    args = parser().parse_args([*COLD, *url, *flags])
    with pytest.raises(ToolError) as caught:
        (asked,) = experiments_of(args, Console(True))
        Target.parse(asked.endpoints[1])
    assert SECRET not in str(caught.value) and "give one of" not in str(caught.value)


def test_the_config_in_a_record_has_no_password(tmp_path: Path) -> None:
    """The config goes into the `run` record, whole but for this."""
    config = tmp_path / "run.yaml"
    value = {
        "proxy": {"url": f"http://user:{SECRET}@h:1/v1"},
        "metrics_urls": [f"node=http://user:{SECRET}@h:1"],
        "isolation": {"engines": [f"vllm=http://user:{SECRET}@h:1"]},
    }
    config.write_text(json.dumps(value), encoding="utf-8")
    (asked,) = experiments_of(parser().parse_args(["--config", str(config)]), Console(True))
    told = msgspec.json.encode(asked.config).decode()
    assert SECRET not in told
    assert '"http://h:1/v1"' in told


def test_keys_are_not_in_what_a_traceback_shows() -> None:
    args = parser().parse_args(
        [*COLD, "--url", f"http://user:{SECRET}@h:1", "--header", f"X-Key: {SECRET}"]
    )
    (asked,) = experiments_of(args, Console(True))
    assert SECRET not in repr(asked.access)


# --- the process list ----------------------------------------------------------------------------


def test_headers_come_from_a_file_or_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "headers"
    file.write_text(f"X-Api-Key: {SECRET}\n\nX-Team: a\n", encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO("X-Team: b\n"))
    assert headers([f"@{file}", "@-"]) == {"X-Api-Key": SECRET, "X-Team": "b"}
    file.write_text(f"a: b\n{SECRET}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"headers:2: write 'Name: value'") as caught:
        headers([f"@{file}"])
    assert SECRET not in str(caught.value)


def test_a_password_in_a_url_becomes_a_header() -> None:
    bare, given = without_credentials("http://us%65r:p@h:1/v1", {"X": "y"})
    assert (bare, given) == ("http://h:1/v1", {"Authorization": "Basic dXNlcjpw", "X": "y"})
    assert without_credentials("http://h:1", {}) == ("http://h:1", {})
    own = {"authorization": "Bearer x"}
    assert without_credentials("http://u:p@h", own) == ("http://h", own)


def test_the_planner_that_kvload_starts_has_no_key_in_its_arguments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The real kvplan against a real server: the server gets them, the process list does not."""
    started: list[list[str]] = []
    real = subprocess.run

    def seen(command: list[str], **options: object) -> object:
        started.append(command)
        return real(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(plans.subprocess, "run", seen)
    refusal = sized_answer(b'{"error":"no"}', "401 Unauthorized")
    with FakeServer(refusal) as server:
        url = server.url.replace("//", f"//user:{SECRET}@")
        args = parser().parse_args([*COLD, "--url", url, "--header", f"X-Api-Key: {SECRET}"])
        (asked,) = experiments_of(args, Console(True))
        with pytest.raises(ToolError, match="no plan") as caught:
            plans._kvplan(asked, url, "m")
    assert started and SECRET not in repr(started) and SECRET not in str(caught.value)
    assert server.received[0].headers["x-api-key"] == SECRET
    assert server.received[0].headers["authorization"].startswith("Basic ")


@pytest.mark.parametrize("where", ["endpoint", "engine", "between"])
def test_a_matrix_takes_no_password_into_its_rules(tmp_path: Path, where: str) -> None:
    bad = f"http://user:{SECRET}@h:1"
    run = {"proxy": {"url": bad if where == "endpoint" else "http://h:1"}}
    if where == "engine":
        run["isolation"] = {"engines": [f"vllm={bad}"]}
    (tmp_path / "run.yaml").write_text(json.dumps(run), encoding="utf-8")
    value: dict[str, object] = {
        "test_scenarios": [{"name": "a", "scenario": "cold_start", "config_file": "run.yaml"}]
    }
    if where == "between":
        value["between"] = [{"http": f"POST {bad}/flush"}]
    (tmp_path / "m.yaml").write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(ToolError, match="process list") as caught:
        read_matrix(str(tmp_path / "m.yaml"), allow_commands=True)
    assert SECRET not in str(caught.value)


# --- redirects -----------------------------------------------------------------------------------


def moved(to: str, status: str = "302 Found") -> Reply:
    return sized_answer(b"", status, f"location: {to}")


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 Temp", "308 Perm"])
async def test_a_redirect_to_another_server_gets_no_key(status: str) -> None:
    with FakeServer(sized_answer(b"{}")) as thief:
        with FakeServer(moved(f"{thief.url}/x?token={SECRET}", status)) as server:
            async with Server(server.url, SECRET, SENT) as asked:
                for method in ("GET", "POST"):
                    with pytest.raises(Unreachable, match="give the final URL") as caught:
                        await asked.request(method, "/metrics")
                    assert SECRET not in str(caught.value)
        assert not thief.received


async def test_a_redirect_within_a_server_is_followed() -> None:
    def reply(request: Received) -> Reply:
        return (
            moved("/metrics/") if request.line == "GET /metrics HTTP/1.1" else sized_answer(b"here")
        )

    with FakeServer(reply) as server:
        async with Server(server.url, SECRET) as asked:
            assert (await asked.get("/metrics")).text == "here"
        assert server.received[1].headers["authorization"] == f"Bearer {SECRET}"
    with FakeServer(moved("/round")) as server:
        async with Server(server.url) as asked:
            assert (await asked.get("/round")).status == 302
        assert len(server.received) == 6


async def test_a_password_in_a_url_and_a_key_go_together() -> None:
    with FakeServer(sized_answer(b"{}")) as server:
        url = server.url.replace("//", "//user:word@")
        async with Server(url) as asked, Server(url, SECRET) as keyed:
            await asked.get("/a")
            await keyed.get("/b")
        first, second = (one.headers["authorization"] for one in server.received)
    assert (first, second) == ("Basic dXNlcjp3b3Jk", f"Bearer {SECRET}")


# --- TLS -----------------------------------------------------------------------------------------

ASK = """
import asyncio, sys
from kvengine.server import Server
from kvload.client import Client
from kvload.target import Target

async def ask(url):
    try:
        async with Server(url) as server:
            print((await server.get("/")).status)
    except Exception as error:
        print(error)
    client = Client(Target.parse(url), timeout_s=60)
    try:
        exchange = await client.send(b"{}", "one")
        print(exchange.status or exchange.error)
    finally:
        await client.close()

asyncio.run(ask(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    place = tmp_path_factory.mktemp("tls") / "both.pem"
    asked = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    named = ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(place), "-out", str(place) + ".crt"]
    subprocess.run(["openssl", *asked, *named, *files], check=True, capture_output=True, timeout=60)
    place.write_text(place.read_text() + Path(f"{place}.crt").read_text())
    return place


def test_certificates_are_checked_and_an_own_ca_is_named_by_ssl_cert_file(
    certificate: Path,
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with FakeServer(sized_answer(b"{}"), tls=context) as server:
        said = []
        for extra in ({}, {"SSL_CERT_FILE": f"{certificate}.crt"}):
            command = [sys.executable, "-c", ASK, server.url]
            env = environment() | extra
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
            said.append(done.stdout.lower().splitlines())
    refused, accepted = said
    assert accepted == ["200", "200"]
    assert len(refused) == 2 and all("certificate" in line for line in refused), refused


# --- whole tools ---------------------------------------------------------------------------------


def unwilling(request: Received) -> Reply:
    """401 with the key that came quoted in it, as some gateways have it."""
    key = request.headers.get("authorization", "") + request.headers.get("x-api-key", "")
    return sized_answer(json.dumps({"error": {"message": f"no: {key}"}}).encode(), "401 No")


def elsewhere(request: Received) -> Reply:
    return moved(f"http://127.0.0.1:1/x?token={SECRET}")


COMMANDS = {
    "kvload": "kvload {url} --scenario cold_start --requests 1 --context-tokens 64",
    "kvplan": "kvplan {url} --scenario cold_start --requests 1 --context-tokens 64",
    "kvdoctor": "kvdoctor {url}",
    "kvclear": "kvclear --vllm {bare} --probe-salt",
}


@pytest.mark.parametrize("tool", COMMANDS)
def test_no_tool_tells_its_keys(tool: str, tmp_path: Path) -> None:
    """With -v, which shows tracebacks: refused, sent elsewhere, mistyped, not there."""
    (tmp_path / "key").write_text(SECRET)
    (tmp_path / "headers").write_text(f"X-Api-Key: {SECRET}\n")
    with FakeServer(unwilling) as server, FakeServer(elsewhere) as other:
        places = [server.url, other.url, "https://127.0.0.1:9", "http://127.0.0.1:port"]
        places.append(f"{server.url}/?token={SECRET}")

        def told(place: str) -> subprocess.CompletedProcess[str]:
            bare = place.replace("//", f"//user:{SECRET}@")
            line = COMMANDS[tool].format(url=f"--url {bare}", bare=bare)
            keys = [] if tool == "kvplan" else ["--header", f"@{tmp_path}/headers"]
            return subprocess.run(
                [*line.split(), *keys, "-v", "--api-key-file", str(tmp_path / "key")],
                cwd=tmp_path,
                env=environment() | {"OPENAI_API_KEY": SECRET},
                capture_output=True,
                text=True,
                timeout=120,
            )

        with ThreadPoolExecutor(3) as pool:
            done = [*pool.map(told, places)]
        assert server.received, "it never asked"
    for one, place in zip(done, places, strict=True):
        assert one.stderr or one.stdout, place
        assert SECRET not in one.stdout + one.stderr, place
    assert {one.returncode for one in done} <= {0, 1, 2}


def test_no_argument_of_a_process_is_a_key(tmp_path: Path) -> None:
    """kvload with its workers, in the middle of a round."""
    (tmp_path / "key").write_text(SECRET)
    (tmp_path / "headers").write_text(f"X-Api-Key: {SECRET}\n")
    faulty = Faulty([Hang()])
    work = workload(tmp_path, "good one", "bad two", "bad three", "bad four")
    with FakeServer(faulty) as server:
        line = (
            f"{kvload(server.url, work)} --concurrency 2 --workers 2 --header @{tmp_path}/headers"
        )
        command = [*line.split(), "--api-key-file", str(tmp_path / "key")]
        with subprocess.Popen(
            command,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert faulty.met.wait(60)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            shown = [Path(f"/proc/{pid}/cmdline").read_text() for pid in (process.pid, *children)]
            process.terminate()
            out, _ = process.communicate(timeout=60)
        sent = [one for one in server.received if b"bad" in one.body]
    assert len(children) >= 2 and "kvload" in shown[0]
    assert SECRET not in "".join(shown) and SECRET not in out
    assert sent[0].headers["x-api-key"] == SECRET
    assert sent[0].headers["authorization"] == f"Bearer {SECRET}"


def test_a_key_that_the_server_quotes_is_in_no_record(tmp_path: Path) -> None:
    """Gateways do: `incorrect API key provided: ...`."""
    (tmp_path / "key").write_text(SECRET)

    def answer(request: Received) -> Reply:
        return unwilling(request) if b"bad" in request.body else faulty(request)

    faulty = Faulty([])
    work = workload(tmp_path, "good one", "bad two", "bad three", "bad four")
    with FakeServer(answer) as server:
        url = server.url.replace("//", f"//user:{SECRET}-too@")
        flags = [
            "--header",
            f"X-Api-Key: Key {SECRET}-three",
            "--workers",
            "2",
            "--concurrency",
            "2",
        ]
        for key in ([], ["--api-key-file", str(tmp_path / "key")]):
            done = subprocess.run(
                [*kvload(url, work).split(), *flags, *key],
                env=environment(),
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 1
            errors = [one["error"] for one in records(done.stdout, "request") if one["error"]]
            assert len(errors) == 3 and all("no: " in error for error in errors)
            assert SECRET not in done.stdout + done.stderr
            assert "dXNlcjpz" not in done.stdout + done.stderr, "the password in Basic"
        assert any(SECRET in one.headers["x-api-key"] for one in server.received)


# --- what is let in ------------------------------------------------------------------------------


def test_kvsim_listens_on_loopback_unless_told() -> None:
    for flags, reached in (((), False), (("--host", "0.0.0.0"), True)):
        with kvsim("--flat", *flags) as engine:
            port = int(engine.url.rpartition(":")[2])
            address = next(iter(machine_addresses()), "127.0.0.2")  # not the one it is bound to
            try:
                socket.create_connection((address, port), 10).close()
                there = True
            except OSError:
                there = False
            assert there == reached, address


def machine_addresses() -> list[str]:
    """Addresses of this machine that are not loopback."""
    found = {one[4][0] for one in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    return sorted(str(one) for one in found if not str(one).startswith("127."))


@pytest.mark.parametrize(
    "tool", ["kvmatrix m.yaml", "kvclear --config run.yaml", "kvload --config run.yaml"]
)
def test_a_config_runs_no_command(tool: str, tmp_path: Path) -> None:
    run = {"proxy": {"url": "http://127.0.0.1:9"}, "isolation": {"commands": ["touch pwned"]}}
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    entry = {"name": "a", "scenario": "cold_start", "config_file": "run.yaml"}
    value = {"test_scenarios": [entry], "between": [{"command": "touch pwned"}]}
    (tmp_path / "m.yaml").write_text(json.dumps(value))
    done = subprocess.run(
        tool.split(), cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr
    assert {one.name for one in tmp_path.iterdir()} == {"run.yaml", "m.yaml"}
    if tool.startswith("kvmatrix"):
        assert "only with --allow-commands" in done.stderr
