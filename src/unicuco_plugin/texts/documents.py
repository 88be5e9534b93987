"""Documents to calibrate on: text files and JSON lines, gzipped or not, and whatever ``datasets`` can open."""

import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from unicuco_plugin.errors import CalibrationError, clip
from unicuco_plugin.files.received import open_regular, parse_json
from unicuco_plugin.models.loading import Tokenizer

__all__ = ["Document", "read_documents"]

_JSON_LINES = (".jsonl", ".ndjson", ".json")
_TEXT = (".txt", ".md", ".text")
_GZIP = ".gz"
# Tables that ``datasets`` reads, by its name for them; a file's own first bytes decide before its name does.
_TABLES = {".parquet": "parquet", ".arrow": "arrow"}
_MAGIC = {b"\x1f\x8b": _GZIP, b"PAR1": ".parquet", b"ARROW1": ".arrow"}
# Characters of a line, all that is in memory of a file at once; books have fewer.
_LONGEST_LINE = 2**26
# Characters that a packed file may unpack to: a small one can hold any number, and documents are held in memory. What
# windows need is some millions.
_MOST_UNPACKED = 2**31


@dataclass(frozen=True)
class Document:
    """One document to calibrate on.

    Attributes:
        text: Its text.
        templated: Whether a chat template wrote it, special tokens included.
    """

    text: str
    templated: bool = False


def read_documents(
    source: str | Path, tokenizer: Tokenizer, *, split: str = "train", samples: int | None = None
) -> Iterator[Document]:
    """Read the documents of one source, in its order.

    Args:
        source: A UTF-8 text file (documents between blank lines) or a JSONL file with ``text`` or ``messages``, either
            as it is or packed by gzip; a Parquet or Arrow file, or a folder or name that ``datasets`` opens, with the
            same columns.
        tokenizer: Its chat template writes ``messages`` as text.
        split: Which split of a dataset; files have none.
        samples: At most so many documents, from the start; all by default.

    Raises:
        CalibrationError: If the source is missing, unreadable, not UTF-8, or lacks the columns; the message names it.
    """
    path = Path(source).expanduser()
    if path.is_dir() or not (path.exists() or _looks_like_file(source)):
        return islice(_columns(source, _open_dataset(source, path, split), tokenizer), samples)
    kind = _kind(path)
    records: Iterable[Document]
    if kind in _TABLES:
        records = _columns(source, _open_table(path, _TABLES[kind]), tokenizer)
    elif kind in _JSON_LINES:
        records = _columns(source, _json_lines(path), tokenizer)
    else:
        records = (Document(text) for text in _paragraphs(path))
    return islice(records, samples)


def _kind(path: Path) -> str:
    """What a file holds, as a suffix; of one packed by gzip, what it unpacks to."""
    first = _first_bytes(path)
    magic = next((suffix for start, suffix in _MAGIC.items() if first.startswith(start)), "")
    if magic in _TABLES:
        return magic
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix == _GZIP else suffix


def _first_bytes(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(8)
    except OSError:  # whoever reads it says so
        return b""


def _looks_like_file(source: str | Path) -> bool:
    text = str(source)
    return (
        isinstance(source, Path)
        or text.startswith(("/", ".", "~"))
        or Path(text).suffix.lower() in (*_JSON_LINES, *_TEXT, *_TABLES, _GZIP)
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    if not path.exists():
        raise CalibrationError(f"calibration file {path} does not exist")
    number = characters = 0
    packed = _first_bytes(path).startswith(b"\x1f\x8b")
    try:
        with open_regular(path) as opened, io.TextIOWrapper(_unpacked(opened, packed=packed), encoding="utf-8") as file:
            while line := file.readline(_LONGEST_LINE + 1):
                number += 1
                characters += len(line)
                if packed and characters > _MOST_UNPACKED:
                    raise CalibrationError(
                        f"calibration file {path} must unpack to at most {_MOST_UNPACKED:,} characters; unpack it, or "
                        "give fewer"
                    )
                if len(line.rstrip("\n")) > _LONGEST_LINE:
                    raise CalibrationError(
                        f"calibration file {path}, line {number}: must have at most {_LONGEST_LINE:,} characters"
                    )
                yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise CalibrationError(
            f"calibration file {path} must be UTF-8; line {number + 1} or soon after is not"
        ) from error
    except (EOFError, zlib.error) as error:
        raise CalibrationError(
            f"calibration file {path} cannot be unpacked: {error}; it is truncated or damaged"
        ) from error
    except OSError as error:
        raise CalibrationError(f"calibration file {path} cannot be read: {error.strerror or error}") from error


def _unpacked(opened: io.BufferedReader, *, packed: bool) -> gzip.GzipFile | io.BufferedReader:
    return gzip.GzipFile(fileobj=opened) if packed else opened


def _paragraphs(path: Path) -> Iterator[str]:
    document: list[str] = []
    for _, line in _lines(path):
        if line.strip():
            document.append(line)
        elif document:
            yield "\n".join(document)
            document = []
    if document:
        yield "\n".join(document)


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            yield f"line {number}", parse_json(line)
        except ValueError as error:
            raise CalibrationError(f"{path}, line {number}: not JSON: {error}") from error


def _open_dataset(source: str | Path, path: Path, split: str) -> Iterator[tuple[str, Any]]:
    # Slow to import, and text files are the common case.
    import datasets  # noqa: PLC0415

    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            data = datasets.load_from_disk(str(path))
        else:
            data = datasets.load_dataset(str(path if path.is_dir() else source), split=split)
        if isinstance(data, datasets.DatasetDict):
            data = data[split]
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CalibrationError(f"dataset {source}, split {split}: cannot be opened: {clip(reason, 160)}") from error
    return ((f"record {number}", record) for number, record in enumerate(data))


def _open_table(path: Path, kind: str) -> Iterator[tuple[str, Any]]:
    """The rows of a file, a batch at a time: nothing is copied into the cache of ``datasets``."""
    import datasets  # noqa: PLC0415

    number = characters = 0
    try:
        for record in datasets.load_dataset(kind, data_files=str(path), split="train", streaming=True):
            characters += sum(len(value) for value in record.values() if isinstance(value, str))
            if characters > _MOST_UNPACKED:
                break
            yield f"record {number}", record
            number += 1
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CalibrationError(f"calibration file {path} cannot be read as {kind}: {clip(reason, 120)}") from error
    if characters > _MOST_UNPACKED:
        raise CalibrationError(
            f"calibration file {path} must hold at most {_MOST_UNPACKED:,} characters; give fewer rows of it"
        )


def _columns(source: str | Path, records: Iterable[tuple[str, Any]], tokenizer: Tokenizer) -> Iterator[Document]:
    for place, record in records:
        if isinstance(record, dict) and isinstance(record.get("text"), str):
            yield Document(record["text"])
        elif isinstance(record, dict) and isinstance(record.get("messages"), list):
            yield Document(_chat(source, place, record["messages"], tokenizer), templated=True)
        else:
            got = ", ".join(record) if isinstance(record, dict) else type(record).__name__
            raise CalibrationError(f"{source}, {place}: expected a text or messages column, got {got or 'none'}")


def _chat(source: str | Path, place: str, messages: list[Any], tokenizer: Tokenizer) -> str:
    if not tokenizer.chat_template:
        raise CalibrationError(f"{source}: has messages, but the model's tokenizer has no chat template")
    if not all(isinstance(message, dict) for message in messages):
        raise CalibrationError(f"{source}, {place}: expected messages with role and content, got {messages!r:.80}")
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception as error:
        raise CalibrationError(f"{source}, {place}: the chat template refuses its messages: {error}") from error
