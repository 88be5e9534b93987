"""The page: one HTML file with its style and script inside, for the service or by itself."""

import base64
import hashlib
import re
from pathlib import Path

__all__ = ["Page"]

_FILE = Path(__file__).with_name("page.html")
_MARK = "<!--DATA-->"


class Page:
    """The page, with data inside or without, and the policy that lets a browser run this text and nothing else.

    Args:
        data: JSON that the page shows without a server; with none it asks the service that it comes from.

    Attributes:
        policy: Content-Security-Policy: no other host, no other script.
        text: HTML.
    """

    def __init__(self, data: str | None = None) -> None:
        text = _FILE.read_text(encoding="utf8")
        hashes = [
            f"{kind}-src 'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"
            for kind, tag in (("script", "script"), ("style", "style"))
            for inside in re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        ]
        connect = "'self'" if data is None else "'none'"
        self.policy = "; ".join(
            ["default-src 'none'", *hashes, f"connect-src {connect}", "base-uri 'none'", "form-action 'none'"]
        )
        inside = "" if data is None else f'<script type="application/json" id="data">{_harmless(data)}</script>'
        meta = f'<meta http-equiv="Content-Security-Policy" content="{self.policy}">'
        self.text = text.replace("<!--POLICY-->", meta).replace(_MARK, inside)


def _harmless(data: str) -> str:
    """JSON in which nothing ends or begins a tag."""
    return data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
