"""The whole report as a document: the answer first, the evidence below."""

from __future__ import annotations

from kvreport import phrasing
from kvreport.analysis import ending
from kvreport.answer import answer
from kvreport.conclusion import Conclusion
from kvreport.contrast import contrast
from kvreport.details import details
from kvreport.document import Block, Document, Heading
from kvreport.summary import summary
from kvreport.words import Words


def document_of(conclusion: Conclusion, words: Words) -> Document:
    blocks: list[Block] = [Heading(1, phrasing.report_title(conclusion, words))]
    for name, chapter in (
        ("answer", answer(conclusion, words)),
        ("summary", summary(conclusion, words)),
        ("", contrast(conclusion, words)),
        ("details", details(conclusion, words)),
        ("", ending(conclusion, words)),
    ):
        if chapter:
            blocks += [Heading(2, words.say(name)), *chapter] if name else chapter
    return Document(blocks=blocks)
