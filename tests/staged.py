"""Folders as exports leave them."""

from pathlib import Path

from unicuco_plugin.models.staging import staged_folder
from unicuco_plugin.ownership import list_files


def make_checkpoint(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(text, encoding="utf8")
    return folder


def fill(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            (folder / name).mkdir()
        else:
            (folder / name).write_text(content, encoding="utf8")
    return folder


def export(output: Path, files: dict[str, str]) -> Path:
    """What an export of these files leaves."""
    with staged_folder(output, overwrite=False) as stage:
        fill(stage, files)
    return output


def contents(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text(encoding="utf8") for name in list_files(folder)}
