"""A JSON document with a schema and its own digest: whole and unedited, or refused."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unicuco_plugin.errors import UnicucoError, quoted
from unicuco_plugin.files.received import DOCUMENT, parse_json, read_text

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

    def read(self, path: Path, *, follow: bool = True) -> dict[str, Any]:
        """Read a document and check it against its digest; schema and digest are left out of what is returned.

        Args:
            path: The file.
            follow: Whether it may be a link.

        Raises:
            UnicucoError: ``error``, if it is missing, edited, damaged, no regular file, too large or of another schema;
                the message says which.
        """
        if not os.path.lexists(path):
            raise self.error(f"no {self.kind} at {path.parent}: it has no {path.name}{self.made_by}")
        content = self._parse(path, follow=follow)
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

    def wrote(self, path: Path) -> bool:
        """Whether a file is such a document, of whatever schema: whole and unedited."""
        try:
            content = self._parse(path, follow=False)
        except self.error:
            return False
        return isinstance(content, dict) and "schema" in content and content.pop("digest", None) == _digest(content)

    def _parse(self, path: Path, *, follow: bool) -> Any:  # noqa: ANN401 - whatever JSON holds
        try:
            return parse_json(read_text(path, largest=DOCUMENT, follow=follow))
        except (OSError, ValueError) as error:
            raise self.error(f"{self.kind} {path} cannot be read: {error}") from error


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
