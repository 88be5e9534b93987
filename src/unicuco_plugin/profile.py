"""A profile on disk: one JSON file that says everything, and the tensor files that it vouches for."""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from unicuco_plugin.errors import ProfileError, quoted
from unicuco_plugin.files.draft import remove_drafts, write_whole
from unicuco_plugin.files.received import read_bytes
from unicuco_plugin.profile_record import ProfileRecord
from unicuco_plugin.signed import SignedDocument
from unicuco_plugin.traits import SPACES

__all__ = [
    "PACKAGED",
    "RECORD",
    "SCHEMA",
    "find_profile",
    "is_profile",
    "packaged_profiles",
    "read_profile",
    "write_profile",
]

PACKAGED = Path(__file__).parent / "profiles"
# Of profile.json; raised when an older reader would misread a newer file.
SCHEMA = 1
RECORD = "profile.json"
_DOCUMENT = SignedDocument("profile", SCHEMA, ProfileError, "train it again")
_DIGITS = 8  # of its digest in a tensor file's name
_FILE = re.compile(rf"[a-z_]{{1,40}}-[0-9a-f]{{{_DIGITS}}}\.safetensors")
_DIGEST = re.compile(r"[0-9a-f]{64}")
# What profiles of any space have beside their record: StratNet, the surrogate, a payload.
_STEMS = {"stratnet", "surrogate"} | {traits.payload for traits in SPACES.values() if traits.payload}
_MOST_FILES = 16
# Bytes of a tensor file: the parts of a model of 70 billion parameters, ranked, have thirty million.
_LARGEST = 2**28


def is_profile(path: Path) -> bool:
    """Whether a file is a profile's record, of whatever schema, whole and unedited."""
    return _DOCUMENT.wrote(path)


def packaged_profiles() -> list[str]:
    """Names of the profiles that come with the package."""
    return sorted(path.parent.name for path in PACKAGED.glob(f"*/{RECORD}"))


def find_profile(source: str | Path) -> Path:
    """The folder of a profile, or of a packaged one by its name.

    Raises:
        ProfileError: If there is none.
    """
    if Path(source).exists():
        return Path(source)
    if str(source) not in packaged_profiles():
        names = ", ".join(packaged_profiles()) or "none"
        raise ProfileError(f"no profile at {source}: neither a folder nor a packaged profile ({names})")
    return PACKAGED / str(source)


def write_profile(folder: Path, record: ProfileRecord, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write a profile folder whole or not at all; an older one of that name is replaced at the very end.

    Args:
        folder: Where to; its parent is made if it is missing. Files beside the profile's own are kept.
        record: What goes into ``profile.json``.
        tensors: Tensors by file stem, such as ``{"stratnet": {…}}``.

    Raises:
        ProfileError: If the disk refuses, or ``profile.json`` is there and is none.
    """
    files = {_file_name(stem, data): data for stem, data in ((s, save(dict(t))) for s, t in tensors.items())}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    unsaid = {name for name in ("needed", "compensation") if not getattr(record, name)}
    content = record.model_dump(mode="json", exclude=unsaid)
    text = _DOCUMENT.dumps({**content, "files": digests})
    if os.path.lexists(folder / RECORD) and not is_profile(folder / RECORD):
        raise ProfileError(
            f"{folder / RECORD} is not a profile of unicuco-plugin; it will not be replaced: move it away"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_drafts(folder)
        # Tensors carry their digest in their name and the record goes last, so a reader meets the old profile whole
        # or the new one whole; what only the old one named goes after that.
        for name, data in {**files, RECORD: text}.items():
            write_whole(folder / name, data)
        for old in folder.iterdir():
            stem = old.name.partition("-")[0]
            if stem in _STEMS | tensors.keys() and old.name not in files and _bears_its_digest(old):
                old.unlink()
    except OSError as error:
        raise ProfileError(f"profile {folder} cannot be written: {error}") from error


def _file_name(stem: str, data: bytes) -> str:
    return f"{stem}-{hashlib.sha256(data).hexdigest()[:_DIGITS]}.safetensors"


def _bears_its_digest(path: Path) -> bool:
    """Whether a file is a tensor file of some profile: no other bears a name that follows from its content."""
    try:
        data = read_bytes(path, largest=_LARGEST, follow=False)
    except OSError:
        return False
    return path.name == _file_name(path.name.partition("-")[0], data)


def read_profile(folder: Path) -> tuple[ProfileRecord, dict[str, dict[str, Tensor]]]:
    """Read a profile folder and check it against its own digests.

    Raises:
        ProfileError: If it is missing, truncated, edited, or of another schema; the message says which.
    """
    path = folder / RECORD
    content = _DOCUMENT.read(path, follow=False)
    files = content.pop("files", None)
    if not isinstance(files, dict) or not 0 < len(files) <= _MOST_FILES:
        raise ProfileError(f"profile {path} is damaged: files must name its one to {_MOST_FILES} tensor files")
    for name, digest in files.items():
        if not isinstance(digest, str) or not _FILE.fullmatch(name) or not _DIGEST.fullmatch(digest):
            raise ProfileError(
                f"profile {path} is damaged: files must be NAME-DIGITS.safetensors by SHA-256, got {quoted(name)}"
            )
    record = ProfileRecord.from_dict(content, path)
    return record, {name.partition("-")[0]: _read(folder / name, expect) for name, expect in files.items()}


def _read(path: Path, expect: str) -> dict[str, Tensor]:
    try:
        data = read_bytes(path, largest=_LARGEST, follow=False)
    except OSError as error:
        raise ProfileError(f"profile file {path} cannot be read: {error}") from error
    if hashlib.sha256(data).hexdigest() != expect:
        raise ProfileError(f"profile file {path} was edited or truncated: it does not match {RECORD}")
    try:
        tensors: dict[str, Tensor] = load(data)
    except (SafetensorError, KeyError) as error:  # KeyError: a dtype that PyTorch lacks
        raise ProfileError(f"profile file {path} is damaged: {error}") from error
    return tensors
