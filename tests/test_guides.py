"""The guides' commands: ```bash blocks are run as they stand, the others' words are looked up.

A page's blocks run in order, in one shell, in a folder of their own. Only the ports are changed, so
that pages can be tried beside each other and beside a user's own kvsim.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.family import ROOT, TOOLS, environment
from tests.test_docs import actions_of, parser_of

PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(
    r"^```(?:bash|sh)\n(.*?)^```$|^((?:    .+\n)+)|`([^`\n]+)`", re.DOTALL | re.MULTILINE
)
PORT = re.compile(r"\b(8301|8302|9301)\b")
NEEDS = {"recipes.md": ("jq", "mlr", "gnuplot"), "quickstart.md": ("curl",)}


def commands(page: Path) -> str:
    return "".join(BLOCK.findall(page.read_text(encoding="utf-8")))


RUN = [page for page in PAGES if commands(page)]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_what_a_guide_says_can_be_run_runs(page: Path, tmp_path: Path) -> None:
    missing = [tool for tool in NEEDS.get(page.name, ()) if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    ports = {found: str(free_port()) for found in set(PORT.findall(commands(page)))}
    script = PORT.sub(lambda found: ports[found[1]], commands(page))
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        shell = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path, env=environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            start_new_session=True,
        )  # fmt: skip
        try:
            status = shell.wait(600)
        finally:
            _gone(shell.pid)
            shell.wait()
    said = (tmp_path / "err").read_text(encoding="utf-8")
    assert status == 0, said[-3000:]
    assert "Traceback" not in said


def _gone(session: int) -> None:
    """Whatever a page left running, a simulated engine above all."""
    subprocess.run(["pkill", "-KILL", "-s", str(session)], check=False)


def test_the_guides_that_are_promised_are_there() -> None:
    names = {page.name for page in PAGES}
    assert names >= {
        "quickstart.md", "isolation.md", "cross-node.md", "pd.md", "large-models.md", "matrix.md",
        "inference.md", "traces.md", "monitoring.md", "troubleshooting.md", "recipes.md",
        "coming-from.md", "deployments.md",
    }  # fmt: skip
    assert {page.name for page in RUN} >= {"quickstart.md", "cross-node.md", "recipes.md"}


def code_of(page: Path) -> str:
    """Everything on a page that is set as code."""
    found = CODE.findall(page.read_text(encoding="utf-8"))
    return "\n".join("".join(parts) for parts in found)


@pytest.fixture(scope="module")
def flags() -> dict[str, set[str]]:
    with pytest.MonkeyPatch.context() as patch:
        return {
            tool: {
                name
                for action in actions_of(parser_of(tool, patch))
                for name in action.option_strings
            }
            for tool in TOOLS
        }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_that_a_guide_gives_a_tool_exists(
    page: Path, flags: dict[str, set[str]]
) -> None:
    code = code_of(page).replace("\\\n", " ")
    for tool, known in flags.items():
        for call in re.findall(rf"(?<![\w/.-]){tool}\b([^|;&\n`]*)", code):
            given = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", call))
            assert given <= known, f"{tool}{call}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_profile_and_container_that_a_guide_names_exists(page: Path) -> None:
    compose = yaml.safe_load((ROOT / "compose/docker-compose.yml").read_text("utf-8"))
    services = compose["services"]
    profiles = {profile for one in services.values() for profile in one.get("profiles", ())}
    code = code_of(page)
    assert set(re.findall(r"docker compose.*? --profile ([a-z-]+)", code)) <= profiles
    assert set(re.findall(r"docker compose (?:logs -f|run --rm) ([a-z-]+)", code)) <= set(services)
    for file in re.findall(r"docker compose(?:.*?) -f ([\w.-]+)", code):
        assert (ROOT / "compose" / file).is_file() or file in services


@pytest.mark.parametrize("name", ["deployments.md", "large-models.md", "monitoring.md"])
def test_what_a_guide_sets_and_asks_in_compose_is_there(name: str) -> None:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    example = (ROOT / "compose" / ".env.example").read_text(encoding="utf-8")
    compose = (ROOT / "compose" / "docker-compose.yml").read_text(encoding="utf-8")
    for key in re.findall(r"^    ([A-Z][A-Z_]+)=", text, re.M):
        assert re.search(rf"^{key}=", example, re.M), f"{key} is not in .env.example"
    published = set(re.findall(r":-(\d+)\}:\d+", compose))
    asked = set(re.findall(r"127\.0\.0\.1:(\d+)", code_of(ROOT / "docs" / name)))
    assert asked <= published
    configs = (ROOT / "configs" / "mooncake-server-config.yaml").read_text(encoding="utf-8")
    for key in re.findall(r"`([a-z]+_[a-z_]+): ", text):
        runs = (ROOT / "configs" / "test_config_large_models.yaml").read_text(encoding="utf-8")
        assert key in configs or key in runs or key == "network_mode", key
