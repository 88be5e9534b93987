"""Several profiles of one model: each request goes to all of them, and the best answer says whose it is."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unicuco_plugin.answering import Profile, load_profile
from unicuco_plugin.errors import ProfileError, RequestError, clip
from unicuco_plugin.profile import RECORD
from unicuco_plugin.request import Request
from unicuco_plugin.strategy import Strategy

__all__ = ["Collection", "is_collection", "load_profiles"]

# Profiles of one folder: each is read and kept whole.
_MOST = 64
# What a profile says that knows nothing of what is asked.
_UNKNOWN = ("cannot be asked", "cannot be told")
# Characters of one profile's reason where none can answer.
_REASON = 160


class Collection:
    """Profiles of one model, by their names.

    Args:
        profiles: Name → profile, one or more.

    Raises:
        ProfileError: If there is none, or they are for several models.
    """

    def __init__(self, profiles: Mapping[str, Profile]) -> None:
        if not profiles:
            raise ProfileError("a folder of profiles must hold one or more, got none")
        first = next(iter(profiles))
        for name, profile in profiles.items():
            if profile.model.fingerprint != profiles[first].model.fingerprint:
                raise ProfileError(
                    f"profiles of one folder must be for one model: {clip(first)} is for "
                    f"{clip(profiles[first].model.name)}, {clip(name)} for {clip(profile.model.name)}, or other weights"
                )
        self.profiles = dict(profiles)

    def answer(self, request: Request | None = None, **fields: Any) -> Strategy:  # noqa: ANN401 - checked by Request
        """Answer one request, given whole or as its fields; see ``answer_many``."""
        return self.answer_many([request or Request.of(**fields)])[0]

    def answer_many(self, requests: Iterable[Request]) -> list[Strategy]:
        """Answer many requests, in order; ``Strategy.profile`` says whose answer each is.

        The best is that of least mean divergence; where ``max_divergence`` alone is asked, that of fewest bytes.

        Raises:
            RequestError: If no profile can answer one, or it has a preference, which weighs the front of one profile.
        """
        return [self._best(request) for request in requests]

    def _best(self, request: Request) -> Strategy:
        if request.preference is not None:
            raise RequestError("preference weighs the front of one profile, got a folder of them: name one")
        found: list[Strategy] = []
        reasons: dict[str, str] = {}
        for name, profile in self.profiles.items():
            try:
                found.append(profile.answer(request).model_copy(update={"profile": name}))
            except RequestError as error:
                reasons[name] = str(error)
        if not found:
            # What a profile could do with other numbers says more than what it knows nothing of.
            name = min(reasons, key=lambda name: any(word in reasons[name] for word in _UNKNOWN))
            why = clip(reasons[name], _REASON, middle=True)
            raise RequestError(f"none of {len(reasons)} profiles can answer; {clip(name)} says: {why}")
        if request.kinds == ("max_divergence",):
            return min(found, key=lambda strategy: strategy.bytes)
        return min(
            found, key=lambda strategy: (strategy.divergence.mean if strategy.divergence else 0.0, strategy.bytes)
        )


def is_collection(source: str | Path) -> bool:
    """Whether a folder is none of a profile, but holds folders that are."""
    folder = Path(source)
    return folder.is_dir() and not (folder / RECORD).exists() and any(folder.glob(f"*/{RECORD}"))


def load_profiles(folder: str | Path, *, device_table: str | Path | None = None) -> Collection:
    """Load all profiles in a folder, each in a folder of its own, by whose name it is called.

    Args:
        folder: Where they lie.
        device_table: Times of the model on a device; see :func:`load_profile`.

    Raises:
        ProfileError: If there is none or more than 64, one is damaged, or they are for several models.
        DeviceTableError, ModelMismatchError: See :func:`load_profile`.
    """
    found = sorted(path.parent for path in Path(folder).glob(f"*/{RECORD}"))
    if not 0 < len(found) <= _MOST:
        raise ProfileError(f"{folder} must hold 1 to {_MOST} folders with a {RECORD} each, got {len(found)}")
    return Collection({path.name: load_profile(path, device_table=device_table) for path in found})
