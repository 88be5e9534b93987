"""Before the site is built: draw the gallery, and take over the pages that lie at the repository's root."""

import importlib.util
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
# Pages of the root and what they are called here. README's links to files that no page shows become plain text.
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#)([^)]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the root's pages, and the gallery's pictures by running its script."""
    for source, page in PAGES.items():
        text = _LINK.sub(_relink, (ROOT / source).read_text(encoding="utf8"))
        files.append(File.generated(config, page, content=text))
    for name, picture in _gallery().items():
        files.append(File.generated(config, f"gallery/{name}", content=picture))
    return files


def _relink(link: re.Match[str]) -> str:
    text, target = link.groups()
    path, _, anchor = target.partition("#")
    page = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") and path.endswith(".md") else "")
    return f"[{text}]({page}{'#' + anchor if anchor else ''})" if page else text


def _gallery() -> dict[str, bytes]:
    spec: Any = importlib.util.spec_from_file_location("gallery", ROOT / "examples" / "gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    drawn: dict[str, bytes] = module.draw_all()
    return drawn
