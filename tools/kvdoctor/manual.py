"""The table of rules, for the documentation: `python -m kvdoctor.manual`."""

from __future__ import annotations

from kvdoctor.diagnose import THEMES
from kvdoctor.rules.rule import Rule


def rules() -> str:
    """Every rule as Markdown, a table for each theme."""
    return "\n".join(part for theme, held in THEMES.items() for part in _theme(theme, held))


def _theme(theme: str, held: tuple[Rule, ...]) -> list[str]:
    head = [
        f"### {theme}",
        "",
        "| code | severity | looks at | means |",
        "| --- | --- | --- | --- |",
    ]
    return [*head, *map(_row, held), ""]


def _row(rule: Rule) -> str:
    return f"| `{rule.code}` | {rule.severity} | {rule.asks} | {rule.means} |"


if __name__ == "__main__":
    print(rules())
