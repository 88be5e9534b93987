"""A search over groups of units, before the one over the units: fewer strategies, and whole groups often go best.

It first lowers the share of the groups' weights that is left, whatever the search over the units lowers: only
divergences pass from one to the other.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from unicuco_plugin.journal.journal import Measurement
from unicuco_plugin.journal.measuring import RANK, Measure, begin
from unicuco_plugin.policy.scalarization import Scalarization
from unicuco_plugin.progress import Progress
from unicuco_plugin.search.exploration import Exploration
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.spaces.space import Space

__all__ = ["Groups", "explore_groups"]


@dataclass(frozen=True)
class Groups:
    """Units that may go together.

    Attributes:
        space: Over the ``e`` groups.
        group: Of each of ``d`` units, the index of its group.
        label: What the groups are called.
    """

    space: Space
    group: Tensor
    label: str

    def expand(self, x: Tensor) -> Tensor:
        """Give every unit its group's share, ``... x e`` to ``... x d``."""
        return x[..., self.group]

    def unit_settings(self, settings: Settings) -> Settings:
        """As many first strategies and picks for each unit as these settings give each group."""
        times = round(len(self.group) / len(self.space.units))
        return settings.model_copy(update={"initial": times * settings.initial, "picks": times * settings.picks})


def explore_groups(
    groups: Groups,
    space: Space,
    measure: Measure,
    scalarization: Scalarization,
    settings: Settings,
    *,
    progress: Callable[[Progress], None] = lambda _: None,
    after: int = 0,
) -> list[Measurement]:
    """Explore groups of units on the ranking windows.

    Args:
        groups: The groups.
        space: Of the units; names what is measured, so that both searches share a journal.
        measure: Measures strategies of ``space``.
        scalarization: How a preference weighs size and quality.
        settings: Everything else that steers the search.
        progress: Called often.
        after: Measurements to come once this is over, for progress.

    Returns:
        All measurements, by the keys of ``space``.

    Raises:
        KeyboardInterrupt: If interrupted; what was measured is in the journal.
    """
    inner = groups.space

    def tell(event: Progress) -> None:
        stage, message = (text and f"{groups.label}: {text}" for text in (event.stage, event.message))
        progress(replace(event, stage=stage, message=message))

    run = Exploration(inner, _OfGroups(groups, measure), scalarization, settings, tell, after=after)
    run.explore()
    return [replace(row, key=space.key(groups.expand(inner.parse(row.key)))) for row in run.rows[RANK]]


@dataclass(frozen=True)
class _OfGroups:
    """Measures strategies of groups as strategies of their units."""

    groups: Groups
    measure: Measure

    def begin(self, fidelity: str, X: Tensor) -> None:
        begin(self.measure, fidelity, self.groups.expand(X))

    def __call__(self, fidelity: str, X: Tensor, report: Callable[[int], None]) -> list[Measurement]:
        rows = self.measure(fidelity, self.groups.expand(X), report)
        return [replace(row, key=self.groups.space.key(x)) for row, x in zip(rows, X, strict=True)]
