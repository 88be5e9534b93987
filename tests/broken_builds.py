"""Builds of level databases that break off, and what is in their folders."""

import hashlib

import pytest

from unicuco_plugin.errors import LevelsError
from unicuco_plugin.levels import linear as store
from unicuco_plugin.levels import packed
from unicuco_plugin.levels.build import build_levels
from unicuco_plugin.levels.scheme_levels import open_levels

__all__ = ["BoomError", "breaking_after", "built_in_two_goes", "contents"]


class BoomError(Exception):
    """Stands for a kill."""


def contents(folder):
    """Checksums of all weights' files."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


def breaking_after(monkeypatch, linears):
    """Let a build break off once so many linears are stored."""
    write, written = store.store_tensors, []

    def writing(folder, name, *rest, **named):
        if len(written) == linears:
            raise BoomError
        written.append(name)
        return write(folder, name, *rest, **named)

    for module in (store, packed):
        monkeypatch.setattr(module, "store_tensors", writing)
    return written


def built_in_two_goes(monkeypatch, linears, decoder, windows, folder, **arguments):
    """The database of a build of 14 linears that breaks off after some of them, and is resumed."""
    with monkeypatch.context() as patch:
        breaking_after(patch, linears)
        with pytest.raises(BoomError):
            build_levels(decoder, windows, folder, **arguments)
    with pytest.raises(LevelsError, match=f"is unfinished: {linears} of 14 linears; build it with --resume"):
        open_levels(folder)
    with monkeypatch.context() as patch:
        written = breaking_after(patch, 99)
        again = build_levels(decoder, windows, folder, **arguments, resume=True)
    assert len(written) == 14 - linears
    return again
