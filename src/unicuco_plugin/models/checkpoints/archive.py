"""A checkpoint folder in one file without the zeros of its weights, for storage and transfer, and back again.

An archive (``.unicuco``) is no model: no loader takes it for one, and it must be unpacked first. It is, in order:
the magic, the version (four bytes, as all numbers little endian), the length of the index (eight bytes), the index
(JSON: files, and what their bytes are), its SHA-256; then for every file its chunks (:mod:`.zero_coding`) and the
SHA-256 of the file itself; then the SHA-256 of all that.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from unicuco_plugin.errors import ArchiveError, ExportError
from unicuco_plugin.files.draft import draft, remove_drafts
from unicuco_plugin.files.received import open_regular
from unicuco_plugin.models.checkpoints.archive_index import ArchivedFile, ArchiveIndex, build_index
from unicuco_plugin.models.checkpoints.zero_coding import CHUNK, decode, encode
from unicuco_plugin.models.output_folder import check_room

__all__ = ["SUFFIX", "Packed", "pack_folder", "unpack_archive"]

SUFFIX = ".unicuco"
# The first byte is no text, and as the length of a safetensors header the first eight are beyond any size.
_MAGIC = b"\x93UNICUCO\r\n\x1a\n"
_VERSION = 1
_DIGEST = hashlib.sha256().digest_size
# An index of a hundred thousand tensors has about three megabytes.
_LARGEST_INDEX = 2**24
# Numbers of eight bytes, none of them alive, are a bit each.
_MOST_ZEROS = 64


@dataclass(frozen=True)
class Packed:
    """A folder and its archive, in bytes.

    Attributes:
        path: The archive, or the folder that came out of it.
        files: How many files.
        folder_bytes: Bytes of all of them.
        archive_bytes: Bytes of the archive.
    """

    path: Path
    files: int
    folder_bytes: int
    archive_bytes: int


def pack_folder(folder: Path, output: Path, *, overwrite: bool = False) -> Packed:
    """Write a checkpoint folder into one archive.

    Args:
        folder: A folder with at least one ``*.safetensors``; links are followed, permissions are not kept.
        output: The archive, ending in ``.unicuco``, or an existing folder to put it into under the folder's name.
            Appears complete or not at all.
        overwrite: Replace an archive that is there.

    Raises:
        ExportError: If there is no checkpoint, or the archive cannot be written.
    """
    folder, output = Path(folder), Path(output)
    target = output / f"{folder.resolve().name}{SUFFIX}" if output.is_dir() else output
    _check_target(target, folder, overwrite=overwrite)
    index = build_index(folder)
    header = json.dumps(index.model_dump(), separators=(",", ":"), ensure_ascii=False).encode("utf8")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_drafts(target.parent, target.name)
        with draft(target) as packed:
            sink = _Hashed(packed)
            sink.write(_MAGIC + _VERSION.to_bytes(4, "little") + len(header).to_bytes(8, "little"))
            sink.write(header + hashlib.sha256(header).digest())
            for file in index.files:
                _pack_file(folder / file.path, file, sink)
            packed.write(sink.digest())
            size = packed.tell()
            _check_target(target, folder, overwrite=overwrite)  # another process may have been faster
    except OSError as error:
        raise ExportError(f"{target}: cannot be written: {error}") from error
    return Packed(target, len(index.files), index.size, size)


def unpack_archive(archive: Path, folder: Path) -> Packed:
    """Write the files of an archive, bit for bit those that were packed.

    Args:
        archive: What :func:`pack_folder` wrote.
        folder: An empty folder. After an error it holds what must be thrown away.

    Raises:
        ArchiveError: If it is no archive, of a newer version, truncated or edited.
        ExportError: If a file cannot be written, or the disk is too small.
    """
    try:
        with open_regular(Path(archive)) as file:
            source = _Hashed(file)
            index = _read_index(source)
            held = os.fstat(file.fileno()).st_size
            if index.size > _MOST_ZEROS * held:
                raise ArchiveError(f"it cannot hold the {index.size:,} bytes of its index: it is truncated or damaged")
            check_room(folder, index.size)
            try:
                for entry in index.files:
                    _unpack_file(source, entry, folder / entry.path)
                for name in index.empty_folders:
                    (folder / name).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ExportError(f"{folder}: cannot be written: {error}") from error
            expected = source.digest()
            if source.read(_DIGEST) != expected:
                raise ArchiveError("its checksum is wrong: it was edited or damaged")
            size = file.tell()
            if file.read(1):
                raise ArchiveError(f"expected {size:,} bytes, got more: something was appended to it")
    except ArchiveError as error:
        raise ArchiveError(f"{archive}: {error}") from error
    except OSError as error:
        raise ArchiveError(f"{archive}: cannot be read: {error}") from error
    return Packed(folder, len(index.files), index.size, size)


class _Hashed:
    """A file whose bytes are all counted into one SHA-256 on their way."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        self._file.write(data)

    def read(self, size: int, /) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise ArchiveError(f"it ends at byte {self._file.tell():,}: it is truncated")
        self._hash.update(data)
        return data

    def digest(self) -> bytes:
        return self._hash.digest()


def _pack_file(path: Path, file: ArchivedFile, sink: _Hashed) -> None:
    whole = hashlib.sha256()
    try:
        source = open_regular(path)
    except OSError as error:
        raise ExportError(f"{path}: cannot be read: {error}") from error
    with source:
        for width, size in file.chunks(CHUNK):
            data = source.read(size)
            if len(data) != size:
                raise ExportError(f"{path}: changed while it was packed")
            whole.update(data)
            sink.write(encode(data, width))
        if source.read(1):
            raise ExportError(f"{path}: changed while it was packed")
    sink.write(whole.digest())


def _unpack_file(source: _Hashed, file: ArchivedFile, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = hashlib.sha256()
    with path.open("xb") as target:
        for width, size in file.chunks(CHUNK):
            data = decode(source, size, width)
            whole.update(data)
            target.write(data)
        target.flush()
        os.fsync(target.fileno())
    if source.read(_DIGEST) != whole.digest():
        raise ArchiveError(f"the checksum of {file.path} is wrong: the archive was edited or damaged")


def _read_index(source: _Hashed) -> ArchiveIndex:
    try:
        magic = source.read(len(_MAGIC))
    except ArchiveError:
        magic = b""
    if magic != _MAGIC:
        raise ArchiveError("not an archive of unicuco pack")
    version = int.from_bytes(source.read(4), "little")
    if version != _VERSION:
        raise ArchiveError(
            f"version must be {_VERSION}, got {version}; a newer unicuco-plugin wrote it, or it is damaged"
        )
    length = int.from_bytes(source.read(8), "little")
    if length > _LARGEST_INDEX:
        raise ArchiveError(f"its index of {length:,} bytes is damaged")
    header = source.read(length)
    if source.read(_DIGEST) != hashlib.sha256(header).digest():
        raise ArchiveError("the checksum of its index is wrong: it was edited or damaged")
    return ArchiveIndex.read(header)


def _check_target(target: Path, folder: Path, *, overwrite: bool) -> None:
    if target.suffix != SUFFIX:
        raise ExportError(f"{target}: an archive's name must end in {SUFFIX}")
    if target.resolve().is_relative_to(folder.resolve()):
        raise ExportError(f"{target}: lies in the folder that is packed; choose another place")
    if not target.exists() and not target.is_symlink():
        return
    if not overwrite:
        raise ExportError(f"{target}: already exists; pass --overwrite to replace it")
    if target.is_symlink() or not target.is_file() or not _is_archive(target):
        raise ExportError(f"{target}: is not an archive of unicuco pack; it will not be replaced")


def _is_archive(path: Path) -> bool:
    with open_regular(path) as file:
        return file.read(len(_MAGIC)) == _MAGIC
