"""One table of hostile strings, sent through every output: all of them stay text.

`docs/security.md` counts its rows and says where each output is held against them.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import re
import subprocess
import unicodedata
import xml.etree.ElementTree as ET
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from tests.fakeserver import FakeServer, sized_answer
from tests.family import ROOT, environment
from tests.kvreport.rounds import Setting, Shape, experiment, finding

from kvdoctor.table import table
from kvengine.identify import identify
from kvengine.server import Server
from kvload.console import Console
from kvload.transcript import shortened
from kvmatrix import cli as matrix_cli
from kvmatrix.recipes import _as_yaml
from kvpipe.jsonl import decode_line
from kvpipe.process import ToolError, complain, legible
from kvpipe.records import Diagnosis, RoundStats
from kvreport import spreadsheet
from kvreport.charts import charts_of
from kvreport.conclude import conclude
from kvreport.conclusion import Conclusion
from kvreport.display import clean
from kvreport.experiments import group
from kvreport.formats import RENDERERS
from kvreport.formats import Setting as Format
from kvreport.rounds import Round
from kvreport.targets import parse
from kvreport.words import Words
from kvschemas.checked import load_checked
from kvstats.openmetrics import openmetrics_of
from kvstats.table import table_of

HOSTILE = {
    "shell substitution": "$(touch pwned) `touch pwned` ${HOME}",
    "shell separators": "a; touch pwned & | > pwned < * ? !x ~",
    "shell quotes": "it's \"quoted\" \\ '\\''; touch pwned; '",
    "make functions": "$(shell touch pwned) $@ $$ $(info x) #c: %=",
    "options": "--help -n -o/pwned",
    "newlines": "a\ntouch pwned\r\n\n# head\n- b",
    "line separators": "a\u2028b\u2029c\u0085d\x0be\x0cf",
    "CSI": "\x1b[31mred\x1b[2J\x1b[1A",
    "OSC 8": "\x1b]8;;http://evil.example\x07click\x1b]8;;\x07",
    "OSC 52": "\x1b]52;c;cHduZWQ=\x1b\\",
    "C1 and backspace": "\x9b31m\x90q\x9c\x08\x08\x7f\x07",
    "script": "<script>alert(1)</script><svg onload=alert(1)>",
    "attribute": "\" onmouseover=\"alert(1)\" ' onfocus='alert(1)' autofocus x=",
    "end of things": "--> ]]> </style></title></script><!--",
    "entities": "&lt;script&gt; &#x3c;b&#x3e; &amp;",
    "Markdown": "a|b [x](javascript:alert(1)) ![i](http://evil.example/i.png) `c` *d* _e_ ~~f~~",
    "Markdown blocks": "# head",
    "formula": "=cmd|'/c calc'!A1",
    "formula plus": "+1+1",
    "formula minus": "-1+1",
    "formula at": "@SUM(A1)",
    "formula tab": "\t=1+1",
    "formula CR": "\r=1+1",
    "formula wide": "＝1+1",
    "separators": '";=1+1;"\t,',
    "parent folder": "../../pwned/../..",
    "absolute path": "/tmp/pwned",
    "overlong": "long" * 1000,
    "overlong wide": "长" * 300,
    "right to left": "txt.\u202egnp.\u2066exe\u200f\u200b\ufeff",
    "not XML": "\x01\x02\ufffe\uffff",
    "look-alike": "e\u0301\u0430\U000e0041",
    "mathtext": "$\\frac{1}{$ $x^2$ \\alpha $\\bad{$",
    "format": "%s %(name)s %n {0} {name.__class__} {{x}}",
    "YAML": "!!python/object/apply:os.system ['touch pwned']",
    "missing glyphs": "\U0001f9e8\u4e00\u0b95\U00012000",
    "ten thousand": "wide load " * 1000,
    "label breaker": 'x",simulated="false"} 1\nkvworth_hit_ratio{a="',
}
"""Every one can stand in JSON and YAML; NUL and half a surrogate pair have tests of their own."""
SMALL = Shape(requests=6, contexts=2, uniques=0, sentinels=0)
CONTROL = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
HANDLER = re.compile(r"on\w+$")


@cache
def rounds() -> tuple[Round, ...]:
    """Two rounds per string, which is name, model, engine and finding in one."""
    return tuple(
        one
        for at, text in enumerate(HOSTILE.values())
        for one in experiment(
            1,
            shape=SMALL,
            setting=Setting(name=text, experiment_id=f"e{at} {text}", model=text, engine=text),
            findings=[finding("lost", "warning", text)],
        )
    )


@cache
def concluded() -> Conclusion:
    return conclude(group([*rounds()]), parse(["ttft_reduction=0.6"]), tool_version="test")


@cache
def rendered(name: str) -> str:
    charts = charts_of(concluded(), group([*rounds()]), Words("en"))
    return RENDERERS[name](concluded(), Format(columns=100, charts=charts))


def stats() -> list[RoundStats]:
    return [one.stats for one in rounds()]


def quiet(text: str) -> None:
    """Nothing in it steers a terminal, and nothing turns it round."""
    assert not CONTROL.search(text), CONTROL.findall(text)[:5]


# --- kvreport ------------------------------------------------------------------------------------


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.bad: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for name, value in attrs:
            link = name in ("href", "src", "action") and not (value or "").startswith("#")
            if HANDLER.match(name) or link or name in ("style", "autofocus"):
                self.bad.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.bad.append(f"comment {data}")


def test_html() -> None:
    page = Page()
    page.feed(rendered("html"))
    assert not page.bad
    assert (page.tags["script"], page.tags["style"], page.tags["body"]) == (1, 1, 1)
    assert not {"img", "iframe", "b", "object", "link", "base", "form"} & page.tags.keys()
    assert clean(HOSTILE["script"]) in page.text
    quiet(re.sub(r"<(script|style)>.*?</\1>", "", rendered("html"), flags=re.S))


def test_markdown() -> None:
    shown = rendered("md")
    quiet(shown)
    assert "<" not in shown.replace("(<charts/", "")
    assert not re.search(r"(?<!\\)\]\((?!<charts/|#)", shown), "a link of a name's own"
    lines = shown.splitlines()
    assert "# head" not in lines and "- b" not in lines
    for number, line in enumerate(lines):
        if line.startswith(("| :-", "| -")):
            columns = line.count("|")
            for row in lines[number - 1 :]:
                if not row.startswith("|"):
                    break
                assert row.replace("\\|", "").count("|") == columns


def test_text() -> None:
    quiet(rendered("text"))
    quiet(rendered("brief"))


def test_csv() -> None:
    shown = rendered("csv")
    quiet(shown)
    found = [*csv.DictReader(io.StringIO(shown))]
    assert {one["scenario"].removeprefix("'") for one in found} == {*map(clean, HOSTILE.values())}
    cells = [text for one in found for text in one.values() if text]
    formulas = [one for one in cells if one.startswith(tuple(spreadsheet.FORMULA))]
    assert not [one for one in formulas if not re.fullmatch(r"-?[0-9.e+-]+", one)]


def test_junit() -> None:
    suites = ET.fromstring(rendered("junit").encode())
    names = [one.get("name") for one in suites.findall("testsuite")]
    assert {*names} == {*map(clean, HOSTILE.values())}
    quiet(rendered("junit"))


def test_json_keeps_every_sign() -> None:
    shown = rendered("json")
    assert {one["name"] for one in json.loads(shown)["scenarios"]} == {*HOSTILE.values()}


def test_picture_files_have_names_of_ours() -> None:
    for chart in charts_of(concluded(), group([*rounds()]), Words("en")):
        assert re.fullmatch(r"[a-z0-9_]{1,80}", chart.name)


# --- kvstats -------------------------------------------------------------------------------------


def test_the_table_of_rounds() -> None:
    quiet(table_of(stats()))


def test_openmetrics() -> None:
    shown = openmetrics_of(stats())
    label = r'[a-z_0-9]+="((?:[^"\\\n]|\\["\\n])*)"'
    sample = re.compile(rf"kvworth_\w+\{{{label}(?:,{label})*\}} \S+")
    lines = [line for line in shown.split("\n")[:-1] if not line.startswith("# ")]
    assert lines and all(sample.fullmatch(line) for line in lines)
    assert all(line.count('simulated="false"') - line.count('\\"false\\"') <= 1 for line in lines)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_record_comes_back_as_it_was(text: str) -> None:
    one = msgspec.structs.replace(
        stats()[0], name=text, findings=[finding("lost", "warning", text)]
    )
    line = msgspec.json.encode(one)
    assert b"\n" not in line
    assert decode_line(line, "x:1") == one


def test_half_a_surrogate_pair_is_no_record() -> None:
    line = msgspec.json.encode(msgspec.structs.replace(stats()[0], name="HERE"))
    with pytest.raises(ToolError, match="x:1") as caught:
        decode_line(line.replace(b"HERE", b"\\ud800"), "x:1")
    quiet(str(caught.value))


# --- stderr and kvdoctor -------------------------------------------------------------------------


@pytest.mark.parametrize("text", [*HOSTILE.values(), "nul\0", "half \ud800"])
def test_messages_are_one_quiet_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    complain(f"{text}: no such file")
    console = Console(False)
    console.say(text)
    console.warn(shortened(text))
    said = capsys.readouterr().err
    quiet(said)
    assert said.count("\n") == 3
    assert legible("节点 \U0001f310 é x") == "节点 \U0001f310 é x"


async def test_model_names_and_errors_of_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    models = {"data": [{"id": text, "root": str(at)} for at, text in enumerate(HOSTILE.values())]}
    with FakeServer(sized_answer(json.dumps(models).encode())) as server:
        async with Server(server.url) as asked:
            for wanted in (None, "none of them"):
                with pytest.raises(ToolError) as caught:
                    await identify(asked, wanted)
                complain(str(caught.value))
    said = capsys.readouterr().err
    assert "pwned" in said and said.count("\n") == 2
    quiet(said)


def test_the_table_of_kvdoctor() -> None:
    found = [
        Diagnosis(
            code="no_connector",
            severity="warning",
            where=text,
            seen=text,
            means=text,
            change=text,
            tool_version="test",
        )
        for text in HOSTILE.values()
    ]
    quiet(table(found))


# --- kvmatrix: rules, shell, folders -------------------------------------------------------------


def test_make_bash_and_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """make reads the rules and prints the recipes; bash parses them; nothing is run by either."""
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text('{"proxy": {"url": "http://127.0.0.1:22001"}}', encoding="utf-8")
    entries = [
        {"name": text, "scenario": "cold_start", "config_file": "run.yaml"}
        for text in HOSTILE.values()
    ]
    Path("m.yaml").write_text(_as_yaml({"test_scenarios": entries}), encoding="utf-8")
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(out):
        assert matrix_cli.run(["m.yaml"]) == 0
        out.flush()
    quiet(capsys.readouterr().err)
    rules = out.buffer.getvalue()  # type: ignore[attr-defined]
    options = {"input": rules, "capture_output": True, "timeout": 120, "env": environment()}
    made = subprocess.run(["make", "-n", "-f", "-"], check=True, **options)  # type: ignore[call-overload]
    options["input"] = made.stdout
    subprocess.run(["bash", "-n"], check=True, **options)  # type: ignore[call-overload]
    assert {one.name for one in tmp_path.iterdir()} <= {"run.yaml", "m.yaml"}
    targets = re.findall(r"^(test_results_multi/\S+/stats\.json):", rules.decode(), re.M)
    folders = {target.split("/")[1] for target in targets}
    assert len(folders) == len(HOSTILE)
    assert all(len(target.split("/")) == 3 for target in targets)
    assert all(len(one.encode()) < 256 and one[0] not in "-." for one in folders)
    assert all(unicodedata.category(sign)[0] != "C" for one in folders for sign in one)


# --- configs -------------------------------------------------------------------------------------

LETTERS = "abcdefghi"
BOMBS = {
    "billion laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{c}: &{c} [{','.join([f'*{p}'] * 9)}]\n" for p, c in itertools.pairwise(LETTERS)),
    "merges": "a: &a {x: 1}\n"
    + "".join(
        f"{c}: &{c} {{<<: [{','.join([f'*{p}'] * 9)}]}}\n" for p, c in itertools.pairwise(LETTERS)
    ),
    "holds itself": "a: &a [*a]\n",
    "deep list": f"a: {'[' * 5000}{']' * 5000}",
    "deep mapping": "\n".join(f"{' ' * at}a:" for at in range(200)),
    "chain of aliases": "a: &a0 [x]\n"
    + "".join(f"b{at}: &a{at + 1} [*a{at}]\n" for at in range(200)),
    "too big": "#" * 1_000_001,
    "code": "!!python/object/apply:os.system ['touch pwned']",
    "no date": "a: 2024-99-99",
    "no number": f"a: {'9' * 5000}",
    "list as key": "? [a]\n: b",
    "NUL": "a: \0",
    "two documents": "a: 1\n---\nb: 2",
    "escapes": '"\\e[31m": 1',
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("schema", ["config", "matrix"])
def test_a_config_is_refused_in_one_line(text: str, schema: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ToolError, match=re.escape(str(file))) as caught:
        load_checked(file, schema)
    assert "\n" not in str(caught.value)
    assert [one.name for one in tmp_path.iterdir()] == ["x.yaml"]


def test_what_is_no_text_or_has_no_end(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(ToolError, match="not UTF-8"):
        load_checked(tmp_path / "x.yaml", "config")
    with pytest.raises(ToolError, match="more than"):
        load_checked("/dev/zero", "config")


@pytest.mark.parametrize(
    "command", ["kvload --config x.yaml", "kvmatrix x.yaml", "kvclear --config x.yaml"]
)
def test_each_tool_refuses_a_bomb(command: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(BOMBS["billion laughs"], encoding="utf-8")
    done = subprocess.run(
        command.split(),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "aliases" in done.stderr and done.stderr.count("\n") == 1


# --- the guide -----------------------------------------------------------------------------------


def test_the_guide_counts_what_is_here() -> None:
    guide = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    assert f"{len(HOSTILE)} hostile strings" in guide
    assert f"{len(BOMBS)} configs" in guide
    own = Path(__file__).read_text(encoding="utf-8")
    others = ("test_hostile_tools.py", "test_keys.py", "test_lock.py")
    own += "".join((ROOT / "tests" / name).read_text(encoding="utf-8") for name in others)
    for name in re.findall(r"`(test_\w+)`", guide):
        assert f"def {name}(" in own, name
