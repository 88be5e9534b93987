"""What a run is given: a dense model, and text to calibrate on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unicuco_plugin.models.loading import load_model
from unicuco_plugin.models.placement import Offload

__all__ = ["CalibrationText", "ModelSource"]


@dataclass(frozen=True)
class ModelSource:
    """A dense model, and how it is loaded.

    Attributes:
        name: Its folder, or its name on the hub.
        device: Where it runs, such as ``cpu`` or ``cuda``; ``auto`` spreads it over all accelerators.
        offload: Where its blocks wait until they are needed (:func:`~unicuco_plugin.models.loading.load_model`).
        dtype: What it computes in, such as ``bfloat16``; ``auto`` is the checkpoint's own.
        revision: A branch, tag or commit on the hub.
        trust_remote_code: Whether code in the model's own repository may run.
    """

    name: str | Path
    device: str = "cpu"
    dtype: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    offload: Offload = "none"

    @classmethod
    def of(cls, given: "str | Path | ModelSource") -> "ModelSource":
        """A model by its folder or name is loaded in the usual way."""
        return given if isinstance(given, ModelSource) else cls(given)

    @property
    def hub(self) -> dict[str, Any]:
        """The arguments of everything that reads its folder or repository."""
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}

    @property
    def absolute(self) -> "ModelSource":
        """The same for a process in another folder."""
        there = Path(self.name)
        return replace(self, name=there.absolute()) if there.exists() else self

    def load(self, tell: Callable[[str], None] = lambda _: None) -> Any:  # noqa: ANN401 - Transformers' model
        """Load the model (:func:`~unicuco_plugin.models.loading.load_model`); ``tell`` gets lines about it."""
        return load_model(self.name, **self.hub, dtype=self.dtype, device=self.device, offload=self.offload, tell=tell)


@dataclass(frozen=True)
class CalibrationText:
    """Text that windows are cut from.

    Attributes:
        sources: Text files, JSONL files, ``datasets`` names or folders; none lets the model write its own text.
        split: Which split of a dataset.
        documents: The most documents to take from each source; all by default.
    """

    sources: Sequence[str] = ()
    split: str = "train"
    documents: int | None = None

    @classmethod
    def of(cls, given: "Sequence[str] | CalibrationText") -> "CalibrationText":
        """Plain sources are read whole, from the usual split."""
        return given if isinstance(given, CalibrationText) else cls(given)
