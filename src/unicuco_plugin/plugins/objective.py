"""Builds an objective from its specification, where the model lies."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from torch import Tensor

from unicuco_plugin.compensation.corrections import Corrections
from unicuco_plugin.errors import CalibrationError, LevelsError, ModelMismatchError, StrategyError, quoted
from unicuco_plugin.levels.database import Database
from unicuco_plugin.levels.experts import split_experts
from unicuco_plugin.levels.scheme_levels import open_levels
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.tensors.storage import compute_device
from unicuco_plugin.objectives.objective import Objective, ObjectiveRequest
from unicuco_plugin.objectives.specification import CompensationSpec, LevelsSpec, ObjectiveSpec
from unicuco_plugin.payload import Payload
from unicuco_plugin.plugins.manager import make_objective, make_space
from unicuco_plugin.texts.calibration import calibration_hash

__all__ = ["Site", "build_objective"]


@dataclass(frozen=True)
class Site:
    """Where a model lies, with what else candidates are measured with there.

    Attributes:
        decoder: The dense model on its device.
        fingerprint: Of the model.
        levels: The level database, where weights are zeroed; it shares what it decodes among all objectives.
        payload: What strategies need beyond shares, where their space's traits say so: which parts go first.
        corrections: What dropped blocks are compensated with; all objectives share what was solved.
    """

    decoder: Decoder
    fingerprint: str
    levels: Database | None = None
    payload: Payload | None = None
    corrections: Corrections | None = None

    @classmethod
    def open(
        cls,
        spec: ObjectiveSpec,
        decoder: Decoder,
        *,
        levels: Path | None = None,
        payload: Payload | None = None,
        corrections: Corrections | None = None,
    ) -> Self:
        """Look at a model that was loaded for a specification, and open the level database that this names.

        Args:
            spec: Of the objective.
            decoder: The model on its device; where weights are zeroed every expert gets linears of its own.
            levels: Where the level database is on this machine; at the specification's own folder by default.
            payload: As the attribute.
            corrections: As the attribute.

        Raises:
            UnsupportedModelError: If experts cannot be given linears.
            LevelsError: If the level database is missing, unfinished or damaged.
        """
        opened = None
        if spec.levels is not None:
            opened = open_levels(levels or spec.levels.folder)
            opened.verify()
            split_experts(decoder.model)
        return cls(decoder, str(fingerprint(decoder.model)), opened, payload, corrections)

    @property
    def dtype(self) -> str:
        """What the model computes in."""
        return str(self.decoder.model.dtype).removeprefix("torch.")

    @property
    def device(self) -> str:
        """The kind of device it computes on."""
        return compute_device(self.decoder.model).type

    @property
    def levels_spec(self) -> LevelsSpec | None:
        """How a specification names the level database."""
        if self.levels is None:
            return None
        return LevelsSpec(folder=str(self.levels.folder.absolute()), identity=self.levels.record.identity)

    @property
    def compensation_spec(self) -> CompensationSpec | None:
        """How a specification names the corrections."""
        if self.corrections is None:
            return None
        return CompensationSpec(name=self.corrections.name, windows=calibration_hash(self.corrections.dense.windows))


def build_objective(spec: ObjectiveSpec, site: Site, windows: Tensor) -> Objective:
    """Build an objective where the model lies; equal specifications give equal bits on one kind of device.

    Args:
        spec: What it is.
        site: What it is built on.
        windows: ``m x L`` token ids, those that the specification names.

    Raises:
        ModelMismatchError: If the model is another, or computes in another dtype or on another kind of device.
        CalibrationError: If the windows are others, or those of the compensation.
        LevelsError: If the level database is another, is missing, or does not fit the model.
        StrategyError: If the payload is another, or is missing.
        UnknownNameError: If no plugin provides the objective or the space.
        PluginError: If one that does fails.
    """
    _check_model(spec, site)
    found = calibration_hash(windows)
    if found != spec.windows:
        raise CalibrationError(f"windows of the objective must be those with hash {spec.windows}, got {found}")
    levels = None if spec.levels is None else _checked_levels(spec.levels, site)
    payload = None if spec.payload is None else _checked_payload(spec.payload, site)
    corrections = None if spec.compensation is None else _checked_corrections(spec.compensation, site)
    space = make_space(**spec.space.model_dump())
    return make_objective(
        spec.objective,
        ObjectiveRequest(
            site.decoder, space, windows, spec.direction, spec.batch_windows, levels, payload, corrections
        ),
    )


def _checked_levels(spec: LevelsSpec, site: Site) -> Database:
    found = "none" if site.levels is None else site.levels.record.identity
    if site.levels is None or found != spec.identity:
        raise LevelsError(
            f"the objective needs the level database {spec.identity}, got {found}: open the run's own, "
            f"{quoted(spec.folder)}"
        )
    site.levels.check_model(site.fingerprint)
    return site.levels


def _checked_corrections(spec: CompensationSpec, site: Site) -> Corrections:
    found = site.compensation_spec
    if site.corrections is None or found != spec:
        got = "none" if found is None else f"{found.name} on those with hash {found.windows}"
        raise CalibrationError(
            f"the objective needs compensation {quoted(spec.name)} on the windows with hash {spec.windows}, got {got}"
        )
    return site.corrections


def _checked_payload(digest: str, site: Site) -> Payload:
    if site.payload is None:
        raise StrategyError(f"the objective needs the payload with the digest {digest}, got none: take the run's own")
    site.payload.check(site.payload.name, digest)
    return site.payload


def _check_model(spec: ObjectiveSpec, site: Site) -> None:
    for what, wanted, found in (
        ("for the model with fingerprint", spec.model, site.fingerprint),
        ("measured in", spec.dtype, site.dtype),
        ("measured on", spec.device, site.device),
    ):
        if wanted != found:
            raise ModelMismatchError(f"the objective is {what} {wanted}, got {found}: load the run's own model alike")
