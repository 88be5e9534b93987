"""The profiles that are served: read whole, found by name, and read again when their files change."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unicuco_plugin.answering import Profile, load_profile
from unicuco_plugin.costs.device_table import DeviceTable
from unicuco_plugin.costs.untimed import why_untimed
from unicuco_plugin.errors import ModelMismatchError, ProfileError, quoted
from unicuco_plugin.files.json_text import json_text
from unicuco_plugin.profile import RECORD, find_profile
from unicuco_plugin.schemes import DENSE, parse_scheme
from unicuco_plugin.web.offers import Offer, find_offers

__all__ = ["Library", "Served"]

_MOST = 256  # profiles; each takes some megabytes
_DIGITS = 16


@dataclass(frozen=True, eq=False)
class Served:
    """One profile as it was read, and what is said of it; nothing here changes but the profile's own bounded caches.

    Attributes:
        name: What clients call it: its folder's name.
        profile: Ready to answer.
        digest: Of its record and the device's times; another one after either was replaced.
        offers: What it can be asked, and from where to where, by the request's fields.
        front: Its best strategies, the smallest removal first, as JSON data.
    """

    name: str
    profile: Profile
    digest: str
    offers: Mapping[str, Offer]
    front: Sequence[Mapping[str, Any]]

    @classmethod
    def read(cls, name: str, folder: Path, device_table: Path | None = None) -> "Served":
        """Read a profile, with times of a device where they are of its model, and work out its front and its offers.

        Raises:
            ProfileError, DeviceTableError: If it, or the table, is missing or damaged.
        """
        try:
            return cls.of(name, load_profile(folder, device_table=device_table))
        except ModelMismatchError:
            return cls.of(name, load_profile(folder))

    @classmethod
    def of(cls, name: str, profile: Profile) -> "Served":
        """The same of a profile that was read."""
        table = profile.costs.device
        said = profile.record.model_dump_json() + ("" if table is None else table.model_dump_json())
        digest = hashlib.sha256(said.encode()).hexdigest()[:_DIGITS]
        front = profile.front()
        return cls(name, profile, digest, find_offers(profile, front), [strategy.to_dict() for strategy in front])

    def describe(self) -> dict[str, Any]:
        """What a client needs to know before it asks, as JSON data."""
        sizes, device = self.profile.record.sizes, self.profile.costs.device
        times = None if device is None or why_untimed(self.profile.costs) else _describe_times(device)
        return {
            "name": self.name,
            "space": self.profile.space,
            "model": self.profile.model.model_dump(mode="json"),
            "digest": self.digest,
            "units": len(self.profile.units),
            "dense": {"params": sizes.total_params, "bytes": sizes.total_bytes},
            "blocks": bool(sizes.blocks),
            "memory": sizes.serving is not None,
            "latency": times is not None,
            **({} if times is None else {"times": times}),
            "schemes": {name: parse_scheme(name).bits for row in sizes.choices for name, *_ in row if name != DENSE},
            "offers": {field: offer.to_dict() for field, offer in self.offers.items()},
        }

    def to_front(self) -> str:
        """Its front as one JSON object."""
        return json_text({**self.describe(), "unit_names": list(self.profile.units), "front": self.front})


class Library:
    """Profiles by name; only ``refresh`` changes which, all at once, so that a reader sees the old ones or the new.

    Args:
        sources: Folders of profiles, folders of such folders, or names of packaged profiles.
        heard: Called with a profile's name, and None or what is wrong with it, whenever one was read.
        device_table: Times of a device, for the profiles of its model.

    Raises:
        ProfileError: If there is none, two have one name, or one cannot be read.
        DeviceTableError, ModelMismatchError: If the table cannot be read, or fits none of them.
    """

    def __init__(
        self,
        sources: Sequence[str | Path],
        heard: Callable[[str, Exception | None], None] = lambda _name, _error: None,
        device_table: Path | None = None,
    ) -> None:
        self._sources, self._heard = tuple(sources), heard
        self._table = None if device_table is None else device_table.expanduser()
        self._seen: dict[str, tuple[int, ...] | None] = {}
        self.served: Mapping[str, Served] = {}
        self.refresh(strict=True)

    def find(self, name: str | None) -> Served:
        """The profile of a name; without one, the only one there is.

        Raises:
            ProfileError: If there is none of that name, or several and none was named.
        """
        served = self.served
        if name is None and len(served) == 1:
            return next(iter(served.values()))
        if name is None or name not in served:
            got = "none" if name is None else quoted(name)
            raise ProfileError(f"profile must be one of {', '.join(sorted(served))[:160]}, got {got}")
        return served[name]

    def refresh(self, *, strict: bool = False) -> None:
        """Read what is new or has changed, and forget what is gone.

        A profile that cannot be read keeps its last state: it may be half way through being replaced.

        Args:
            strict: Whether what cannot be read is an error.

        Raises:
            ProfileError: See ``strict``.
        """
        found: dict[str, Served] = {}
        for name, folder in self._folders(strict=strict).items():
            mark: tuple[int, ...] | None = _mark(folder / RECORD)
            if mark and self._table is not None:
                mark += _mark(self._table, follow=True)
            if name in self.served and mark in (self._seen.get(name), ()):
                found[name] = self.served[name]
                continue
            try:
                found[name] = Served.read(name, folder, self._table)
                self._heard(name, None)
            except Exception as error:  # of one profile; the others are served all the same
                if strict:
                    raise
                self._heard(name, error)
                mark = None  # it is tried again
                if name in self.served:
                    found[name] = self.served[name]
            self._seen[name] = mark
        self._seen = {name: mark for name, mark in self._seen.items() if name in found}
        if strict and self._table is not None and all(one.profile.costs.device is None for one in found.values()):
            raise ModelMismatchError(f"device table {self._table} is of another model than every profile served")
        self.served = found

    def _folders(self, *, strict: bool) -> dict[str, Path]:
        folders: dict[str, Path] = {}
        for source in self._sources:
            for folder in _profiles_at(source, strict=strict):
                name = Path(os.path.abspath(folder)).name  # noqa: PTH100 - a link is called by its own name
                if strict and name in folders:
                    raise ProfileError(f"profiles must have folders of different names, got {quoted(name)} twice")
                folders.setdefault(name, folder)
        if strict and not 0 < len(folders) <= _MOST:
            raise ProfileError(f"profiles must be 1 to {_MOST}, got {len(folders)} at {quoted(str(self._sources[0]))}")
        return dict(list(folders.items())[:_MOST])


def _describe_times(table: DeviceTable) -> dict[str, Any]:
    """Where a table is from, and the loads that it reaches: the least and the largest."""
    ends = {name: [known[0], known[-1]] for name, known in (("context", table.contexts), ("batch", table.batches))}
    return {"device": table.device.name, "dtype": table.device.dtype, **ends}


def _profiles_at(source: str | Path, *, strict: bool) -> Iterator[Path]:
    """The folder of a profile, or those of all that lie in it."""
    try:
        folder = find_profile(source)
    except ProfileError:
        if strict:
            raise
        return
    if os.path.lexists(folder / RECORD) or not folder.is_dir():
        yield folder
        return
    yield from sorted(path.parent for path in folder.glob(f"*/{RECORD}"))


def _mark(file: Path, *, follow: bool = False) -> tuple[int, ...]:
    """What changes with a file that is replaced whole, a profile's record last; empty where there is none just now."""
    try:
        found = file.stat(follow_symlinks=follow)
    except OSError:
        return ()
    return (found.st_ino, found.st_mtime_ns, found.st_size)
