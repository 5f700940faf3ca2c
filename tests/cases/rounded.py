"""JSON as a golden case keeps it: to nine digits, since machines differ in the last ones."""

from __future__ import annotations

import json
import sys


def nine_digits(text: str) -> float:
    return float(f"{float(text):.9g}")


if __name__ == "__main__":
    print(json.dumps(json.load(sys.stdin, parse_float=nine_digits), indent=1, ensure_ascii=False))
