"""Training: explore, measure the best of each budget again, show them to StratNet, confirm them on fresh windows."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from unicuco_plugin.costs.model import Cost
from unicuco_plugin.journal.journal import Measurement
from unicuco_plugin.journal.measuring import CONFIRM, RANK, RERANK, Measure
from unicuco_plugin.policy.prior import Prior
from unicuco_plugin.policy.scalarization import Z_STAR, Scalarization
from unicuco_plugin.policy.stratnet import GRID, imitate, preference_grid
from unicuco_plugin.progress import Progress
from unicuco_plugin.search.candidates import most_measurements, quality_of
from unicuco_plugin.search.exploration import Exploration
from unicuco_plugin.search.groups import Groups, explore_groups
from unicuco_plugin.search.result import TrainingResult
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.spaces.space import Space

__all__ = ["train"]


def train(
    space: Space,
    measure: Measure,
    scalarization: Scalarization,
    settings: Settings,
    progress: Callable[[Progress], None] = lambda _: None,
    *,
    first: Tensor | None = None,
    prior: Prior | None = None,
    groups: Groups | None = None,
    plain: Sequence[str] = (),
    cost: Cost | None = None,
) -> TrainingResult:
    """Run Algorithm 1 with the settings' preset, then confirm the front on fresh windows.

    Args:
        space: Of the strategies.
        measure: Measures them, durably.
        scalarization: How a preference weighs size and quality.
        settings: Everything else that steers the run.
        progress: Called often.
        first: Strategies to measure before there is a surrogate, ``n x d``; filled up by the space's own.
        prior: What the surrogate's mean follows.
        groups: Of units that may go together; they are searched first, what comes of it is known here, and each
            unit gets as many first strategies and picks as each of those did.
        plain: Keys of strategies that are measured again beside each budget's best: what answers without a search must
            not lose by less evidence.
        cost: The first objective; the share of the space's weights that is left, if left out.

    The same arguments and measurements give the same result: nothing depends on time or on free memory.

    Raises:
        KeyboardInterrupt: If interrupted while groups are searched, or before there is a surrogate.

    Source:
        UniCuCo, Algorithm 1 and Eqs. (6)-(13); deviations and additions in docs/training.md.
    """
    own = groups.unit_settings(settings) if groups else settings
    # Plain answers come first among the first ones, and are measured however few those are to be.
    own = own.model_copy(update={"initial": max(own.initial, len(plain))})
    last = (1 + settings.rerank) * len(space.budgets) + len(plain)
    known: list[Measurement] = []
    if groups is not None:
        after = most_measurements(space, own) + last
        known = explore_groups(groups, space, measure, scalarization, settings, progress=progress, after=after)
    run = Exploration(
        space, measure, scalarization, own, progress, first=first, known=known, prior=prior, cost=cost, after=last
    )
    interrupted = False
    try:
        run.explore()
        if settings.rerank:
            best = run.finalists(settings.rerank, settings.focus)
            chosen = {space.key(row) for row in best}
            rivals = [space.parse(key)[None] for key in plain if key not in chosen]
            run.measure(RERANK, torch.cat([best, *rivals]), "reranking")
        _imitate(run, run.finalists(1))
        # Held again: what StratNet proposes from now on is what a profile's answers will compare with.
        run.measure(CONFIRM, run.finalists(1), "confirming")
    except KeyboardInterrupt:
        run.join()
        if not run.has_learned:
            raise
        interrupted = True
    posterior, scaling = run.learned
    rows = run.rows
    return TrainingResult(run.net, posterior, scaling, rows[RANK], rows[RERANK], rows[CONFIRM], run.epoch, interrupted)


def _imitate(run: Exploration, best: Tensor) -> None:
    """Show StratNet, for every preference, the best of the best of each budget."""
    settings = run.settings
    if not settings.imitation:
        return
    posterior, scaling = run.learned
    lam = preference_grid(GRID)
    with torch.no_grad():
        quality = quality_of(posterior, posterior.mean(best), settings)
        f = scaling.scale(torch.stack([run.cost(best), quality], -1))
        z_star = torch.full((2,), Z_STAR, dtype=torch.float64)
        g = torch.stack([run.scalarization(f, row.expand(len(f), 2), z_star) for row in lam])
    imitate(run.net, lam, best[g.argmin(1)], steps=settings.imitation, learning_rate=settings.learning_rate)
