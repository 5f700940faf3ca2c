"""Write the record schemas from the types: `python -m kvschemas DIRECTORY`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from kvschemas.generate import record_schemas

if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "schemas")
    for name, schema in record_schemas().items():
        text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        (target / f"{name}.schema.json").write_text(text, encoding="utf-8")
