"""compose/'s flags and keys before the parsers of the engines that are to read them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.family import ROOT, TOOLS
from tests.test_compose import services
from tests.test_docs import actions_of, parser_of

LMCACHE_CONFIGS = sorted((ROOT / "configs").glob("mooncake-*-config.yaml"))
VLLM = [
    name for name, one in services().items() if "--kv-transfer-config" in one.get("command", ())
]


def asked(python: Path, script: str, *arguments: str) -> Any:
    """What a script answers in an engine's environment: the last line that it prints, as JSON."""
    done = subprocess.run(
        [python, "-c", script, *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


PARSE_VLLM = """
import json, sys
from vllm.config import KVTransferConfig
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
told = []
for command in json.loads(sys.argv[1]):
    parser = make_arg_parser(FlexibleArgumentParser())
    args = parser.parse_args(["--model", *command])
    transfer = args.kv_transfer_config
    names = [transfer.kv_connector]
    for inner in transfer.kv_connector_extra_config.get("connectors", []):
        KVTransferConfig(**inner)
        names.append(inner["kv_connector"])
    told.append({"port": args.port, "names": names,
                 "known": [name in KVConnectorFactory._registry for name in names]})
print(json.dumps(told))
"""

LOAD_LMCACHE = """
import json, sys
from lmcache.v1.config import LMCacheEngineConfig, load_engine_config_with_overrides
from lmcache.v1.storage_backend.connector import mooncakestore_connector as mooncake
told = []
for path in sys.argv[1:]:
    config = load_engine_config_with_overrides(config_file_path=path)
    store = mooncake.MooncakeStoreConfig.load_from_lmcache_config(config)
    told.append({"fields": sorted(config._config_definitions), "chunk_size": config.chunk_size,
                 "setup": store.setup_config, "timeout": store.transfer_timeout})
print(json.dumps(told))
"""


def test_vllm_takes_every_flag_and_knows_every_connector(installed_stack: None) -> None:
    commands = [services()[name]["command"] for name in VLLM]
    assert len(commands) == 5
    answers = asked(ROOT / ".venv-real/bin/python", PARSE_VLLM, json.dumps(commands))
    for name, answer in zip(VLLM, answers, strict=True):
        assert all(answer["known"]), (name, answer["names"])
    assert {answer["port"] for answer in answers} == {8000, 8100, 8200}


VLLM_FLAGS = """
import json
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser())
print(json.dumps(sorted(name for action in parser._actions for name in action.option_strings)))
"""
GUIDES = ("cross-node", "deployments", "isolation", "large-models", "pd", "troubleshooting")
OTHERS = {
    "--default_kv_lease_ttl",  # of mooncake_master, above
    "--supported-transfer-mode",  # of LMCache's MP server: stack/nodes.py starts it so
    "--profile",  # of docker compose: tests/test_guides.py
}


def test_every_flag_that_guides_give_vllm_exists(installed_stack: None) -> None:
    known = set(asked(ROOT / ".venv-real/bin/python", VLLM_FLAGS))
    with pytest.MonkeyPatch.context() as patch:
        ours = {
            name
            for tool in TOOLS
            for action in actions_of(parser_of(tool, patch))
            for name in action.option_strings
        }
    for guide in GUIDES:
        text = (ROOT / "docs" / f"{guide}.md").read_text(encoding="utf-8")
        named = set(re.findall(r"`(--[a-z][a-z_-]+)", text)) - ours - OTHERS
        assert named <= known, guide


def test_lmcache_reads_every_key(installed_lmcache: None) -> None:
    answers = asked(ROOT / ".venv-lmcache/bin/python", LOAD_LMCACHE, *map(str, LMCACHE_CONFIGS))
    assert len(LMCACHE_CONFIGS) == 5
    for path, answer in zip(LMCACHE_CONFIGS, answers, strict=True):
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert set(written) <= set(answer["fields"]), f"{path.name}: LMCache knows no such key"
        assert answer["chunk_size"] == written["chunk_size"]
        extra = written["extra_config"]
        assert answer["timeout"] == extra.pop("transfer_timeout")
        extra.pop("save_chunk_meta")  # read by the base class of LMCache's connectors
        assert {key: str(value) for key, value in extra.items()} == answer["setup"], path.name


def test_mooncake_master_has_every_flag(installed_stack: None) -> None:
    binary = ROOT / ".venv-real/bin/mooncake_master"
    text = subprocess.run([binary, "--help"], capture_output=True, text=True, check=False).stdout
    known = set(re.findall(r"^\s+-(\w+) \(", text, re.M))
    for flag in services()["mooncake-master"]["command"][1:]:
        assert flag.lstrip("-").partition("=")[0] in known, flag
