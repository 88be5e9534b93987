"""A JSON document with a schema and its own digest: whole and unedited, or refused."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unicuco_plugin.errors import UnicucoError, quoted

__all__ = ["SignedDocument"]


@dataclass(frozen=True)
class SignedDocument:
    """One kind of document.

    Attributes:
        kind: What messages call it.
        schema: The one schema that is read and written.
        error: What is raised.
        remedy: What to do about a damaged one.
        made_by: How one comes about, behind the message that there is none.
    """

    kind: str
    schema: int
    error: type[UnicucoError]
    remedy: str
    made_by: str = ""

    def dumps(self, content: Mapping[str, Any]) -> bytes:
        """The document's bytes, with schema and digest added."""
        content = {"schema": self.schema, **content}
        return json.dumps(
            content | {"digest": _digest(content)}, indent=1, ensure_ascii=False, allow_nan=False
        ).encode()

    def read(self, path: Path) -> dict[str, Any]:
        """Read a document and check it against its digest; schema and digest are left out of what is returned.

        Raises:
            UnicucoError: ``error``, if it is missing, edited, damaged or of another schema; the message says which.
        """
        if not path.is_file():
            raise self.error(f"no {self.kind} at {path.parent}: it has no {path.name}{self.made_by}")
        try:
            content = json.loads(path.read_text(encoding="utf8"))
        except (OSError, ValueError, RecursionError) as error:
            raise self.error(f"{self.kind} {path} cannot be read: {error}") from error
        if not isinstance(content, dict) or "schema" not in content:
            raise self.error(f"{self.kind} {path} is damaged: it has no schema")
        if content["schema"] != self.schema:
            raise self.error(
                f"{self.kind} schema must be {self.schema}, got {quoted(content['schema'])}: another unicuco-plugin "
                f"wrote {path}"
            )
        digest = content.pop("digest", None)
        if digest != _digest(content):
            raise self.error(f"{self.kind} {path} was edited or damaged: its digest does not match; {self.remedy}")
        del content["schema"]
        return content


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
