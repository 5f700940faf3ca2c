"""An audit on its way out: a page or JSON on stdout, and the exit status."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

import msgspec

from kvpipe.process import version
from kvreport import markdown, text
from kvreport.audit.audit import audit
from kvreport.audit.bundle import read
from kvreport.audit.page import document_of
from kvreport.output import colour_of
from kvreport.targets import Target

FORMATS = ("text", "md", "json")


def run(files: Sequence[str], wished: Sequence[Target], form: str, *, colour: str) -> int:
    found = audit(read(files), wished, tool_version=version())
    if form == "json":
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n")
    elif form == "md":
        sys.stdout.write(markdown.render(document_of(found)))
    else:
        columns = shutil.get_terminal_size((80, 24)).columns
        bold = colour_of(colour, terminal=sys.stdout.isatty())
        sys.stdout.write(text.render(document_of(found), columns=columns, colour=bold))
    return 0 if found.agrees else 1
