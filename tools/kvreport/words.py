"""The seam to a language: chapters ask for phrases by name, and a language is one file of them."""

from __future__ import annotations

from kvreport import chinese, english

LANGUAGES = {"en": english.PHRASES, "zh": chinese.PHRASES}


class Words:
    """`say(name, ...)` fills a phrase of one language."""

    def __init__(self, language: str) -> None:
        self.phrases = LANGUAGES[language]

    def say(self, phrase: str, /, **values: object) -> str:
        return self.phrases[phrase].format(**values)

    def maybe(self, phrase: str, /, **values: object) -> str | None:
        """The phrase, if this language has one of that name; for codes that need none."""
        return self.say(phrase, **values) if phrase in self.phrases else None

    def names(self, items: list[str], most: int = 6) -> str:
        """The same, cut short where there are many."""
        if len(items) <= most:
            return self.listed(items)
        return self.say(
            "names_more", names=self.say("comma").join(items[:most]), count=len(items) - most
        )

    def listed(self, items: list[str]) -> str:
        """`a, b and c`."""
        if len(items) < 2:
            return "".join(items)
        return self.say("and", first=self.say("comma").join(items[:-1]), last=items[-1])
