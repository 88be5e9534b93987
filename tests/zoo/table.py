"""The zoo's expectation, ``outcomes.json``, and the table in ``docs/families.md`` that is made of it."""

import json
from collections.abc import Mapping
from pathlib import Path

__all__ = ["DOCUMENT", "OUTCOMES", "read_outcomes", "write_outcomes", "write_table"]

OUTCOMES = Path(__file__).with_name("outcomes.json")
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "families.md"


def write_outcomes(path: Path, found: Mapping[str, Mapping[str, str]]) -> None:
    path.write_text(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf8")


def read_outcomes() -> dict[str, dict[str, str]]:
    return json.loads(OUTCOMES.read_text(encoding="utf8"))


def write_table(path: Path, found: Mapping[str, Mapping[str, str]]) -> None:
    pass
