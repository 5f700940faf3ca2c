"""An audit on its way out: a page or JSON on stdout, and the exit status."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

import msgspec

from kvpipe.process import version
from kvreport import markdown, text
from kvreport.audit.audit import Audit, concluded
from kvreport.audit.bundle import read
from kvreport.audit.page import document_of
from kvreport.output import colour_of
from kvreport.targets import Target
from kvreport.words import Words

FORMATS = ("text", "md", "json")


def run(
    files: Sequence[str], wished: Sequence[Target], form: str, *, language: str, colour: str
) -> int:
    found, own = concluded(read(files), wished, tool_version=version())
    if form == "json":
        sys.stdout.write(as_json(found))
        return 0 if found.agrees else 1
    document = document_of(found, own, Words(language))
    if form == "md":
        sys.stdout.write(markdown.render(document))
    else:
        columns = shutil.get_terminal_size((80, 24)).columns
        bold = colour_of(colour, terminal=sys.stdout.isatty())
        sys.stdout.write(text.render(document, columns=columns, colour=bold))
    return 0 if found.agrees else 1


def as_json(found: Audit) -> str:
    """Its sentences in English, each with the code of what it says."""
    value = msgspec.to_builtins(found)
    value["lines"] = [
        {
            "check": one.check,
            "where": str(one.where),
            "state": one.state,
            "code": one.said.phrase.removeprefix("audit_"),
            "said": str(one.said),
        }
        for one in found.lines
    ]
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"
