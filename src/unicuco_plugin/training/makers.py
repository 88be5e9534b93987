"""The objectives of a run, one for each fidelity's windows, each built from its specification."""

import json
from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from unicuco_plugin.journal.measuring import RANK
from unicuco_plugin.journal.memory import RememberedObjective
from unicuco_plugin.objectives.objective import Objective
from unicuco_plugin.objectives.specification import ObjectiveSpec, SpaceSpec
from unicuco_plugin.plugins.objective import Site, build_objective
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.texts.calibration import calibration_hash
from unicuco_plugin.training.correcting import correcting
from unicuco_plugin.training.shared import Shared
from unicuco_plugin.training.subject import Subject

__all__ = ["objective_makers", "objective_specs"]


def objective_specs(
    objective: str, subject: Subject, site: Site, windows: Mapping[str, Tensor], settings: Settings
) -> dict[str, ObjectiveSpec]:
    """What the objective of each fidelity is.

    Args:
        objective: Its name.
        subject: What the run is about.
        site: Where the model lies.
        windows: ``m x L`` token ids of each fidelity.
        settings: Of the run.
    """
    table = subject.costs.table
    common = ObjectiveSpec(
        objective=objective,
        model=site.fingerprint,
        dtype=site.dtype,
        device=site.device,
        space=SpaceSpec.of(subject.space, table.unit_params, table.parts, table.choices),
        windows=calibration_hash(windows[RANK]),
        direction=settings.direction,
        batch_windows=settings.batch_windows,
        levels=site.levels_spec,
        payload=None if site.payload is None else site.payload.digest,
        compensation=site.compensation_spec,
    )
    return {name: common.model_copy(update={"windows": calibration_hash(tokens)}) for name, tokens in windows.items()}


def objective_makers(
    specs: Mapping[str, ObjectiveSpec],
    subject: Subject,
    site: Site,
    windows: Mapping[str, Tensor],
    shared: Shared | None,
) -> dict[str, Callable[[], Objective]]:
    """What makes the objective of each fidelity, when it is first needed.

    Args:
        specs: As ``objective_specs`` made them.
        subject: What the run is about.
        site: Where the model lies.
        windows: ``m x L`` token ids of each fidelity.
        shared: What runs over the same model share.
    """

    def maker(spec: ObjectiveSpec, tokens: Tensor) -> Callable[[], Objective]:
        build = partial(build_objective, spec, site, tokens)
        if shared is None:
            return build
        own = subject.header | correcting(site.corrections)
        what = [spec.objective, spec.direction, spec.windows, subject.space.name, own]
        identity = json.dumps(what, sort_keys=True)
        return lambda: RememberedObjective(build, shared.journal, subject.space, identity, shared.spent)

    return {name: maker(spec, windows[name]) for name, spec in specs.items()}
