"""What answers of a benchmark are worth on its texts, measured alike whoever gave them."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from unicuco_plugin.benchmark.plan import BenchmarkPlan
from unicuco_plugin.benchmark.texts import Texts
from unicuco_plugin.compensation.corrections import Corrections
from unicuco_plugin.errors import JournalError
from unicuco_plugin.evaluation.comparison import Estimate
from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.journal.once import measure_once
from unicuco_plugin.levels.scheme_levels import SchemeLevels, open_levels
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.objectives.objective import Evaluation
from unicuco_plugin.objectives.room import Room
from unicuco_plugin.objectives.units import UnitsEvaluator
from unicuco_plugin.payload import Payload
from unicuco_plugin.scores.ranked_parts import rank_parts
from unicuco_plugin.scores.ranking import RANKINGS
from unicuco_plugin.training.correcting import find_corrections
from unicuco_plugin.traits import traits_of

__all__ = ["Quality"]


@dataclass
class Quality:
    """Divergence of strategies on the texts of a benchmark; what is in the journal is not measured again.

    Attributes:
        plan: Names the space and the level database.
        texts: Cut into windows.
        decoder: The dense model.
        journal: Of the benchmark, open.
    """

    plan: BenchmarkPlan
    texts: Texts
    decoder: Decoder
    journal: Journal
    _made: dict[tuple[str, str | None], UnitsEvaluator] = field(default_factory=dict, init=False)
    _solved: dict[str | None, Corrections | None] = field(default_factory=dict, init=False)

    def check_contents(self, path: Path) -> None:
        """Refuse texts and databases that changed under their names: what the journal holds is of the old ones.

        Args:
            path: The journal's file.

        Raises:
            JournalError: If one did; the message names the field.
        """
        named = dict(self.texts.hashes)
        if self.levels is not None:
            named["levels"] = self.levels.record.identity
        known = self.journal.notes()
        for where, content in named.items():
            note = f"content/{where}/{self._where(where)}"
            if known.get(note, content) != content:
                raise JournalError(
                    f"{where} must be as it was when {path} was started, but has changed: "
                    "restore it, or give another --output"
                )
            self.journal.write_note(note, content)

    def measure(
        self, name: str, units: Mapping[str, Any], tell: Callable[[], None], compensation: str | None = None
    ) -> dict[str, Any]:
        """Divergence of one strategy on a text, nats per token, as a benchmark's result has it.

        Args:
            name: Of the text.
            units: Unit name → share removed, or scheme.
            tell: Called before something is really measured.
            compensation: What it is measured with, solved from the benchmark's calibration windows and with no
                correction left out; None measures it as it is.

        Returns:
            ``mean``, ``standard_error`` (None of one window, which says nothing of its own spread) and ``windows``.
        """

        def measure(_: list[int]) -> list[Evaluation]:
            tell()
            return Room().measure(self._evaluator(name, compensation).evaluate, [units])

        key, fidelity = self._place(name, units, compensation)
        [row] = measure_once(self.journal, fidelity, [key], measure)
        found = Estimate.of(row.per_window)
        return {
            "mean": found.mean,
            "standard_error": found.standard_error if len(row.per_window) > 1 else None,
            "windows": [round(value, 6) for value in row.per_window],
        }

    def knows(self, name: str, units: Mapping[str, Any], compensation: str | None = None) -> bool:
        """Whether the journal holds the divergence of one strategy on a text; arguments as of ``measure``."""
        key, fidelity = self._place(name, units, compensation)
        return bool(self.journal.lookup(fidelity, [key]))

    def _place(self, name: str, units: Mapping[str, Any], compensation: str | None) -> tuple[str, str]:
        """Key and fidelity of one strategy on a text."""
        key = hashlib.sha256(json.dumps(units, sort_keys=True).encode()).hexdigest()
        fidelity = f"text/{self.texts.hashes[f'evaluation.{name}']}"
        if compensation is not None:
            fidelity += f"/{compensation}/{self.texts.hashes['calibration']}"
        return key, fidelity

    @cached_property
    def levels(self) -> Levels | SchemeLevels | None:
        """The plan's level database, which must be the model's."""
        if self.plan.levels is None:
            return None
        levels = open_levels(self.plan.levels)
        levels.check_model(str(fingerprint(self.decoder.model)))
        return levels

    def _evaluator(self, name: str, compensation: str | None) -> UnitsEvaluator:
        if (name, compensation) not in self._made:
            self._made[name, compensation] = UnitsEvaluator(
                self.decoder,
                self.plan.space,
                self.texts.evaluation[name],
                levels=self.levels,
                payload=self._payload,
                corrections=self._corrections(compensation),
            )
        return self._made[name, compensation]

    def _corrections(self, compensation: str | None) -> Corrections | None:
        """What all texts share."""
        if compensation is not None and compensation not in self._solved:
            self._solved[compensation] = find_corrections(
                compensation, self.decoder, self.texts.calibration, space=self.plan.space
            )
        return self._solved.get(compensation)

    @cached_property
    def _payload(self) -> Payload | None:
        """Which parts of a module go, for everyone alike: whoever answers says how many."""
        if not traits_of(self.plan.space).cuts:
            return None
        return rank_parts(self.decoder, self.texts.calibration, RANKINGS["flap"]).to_payload()

    def _where(self, field: str) -> str:
        """The field as the YAML has it, hashed: another text is another note."""
        kind, _, name = field.partition(".")
        value = self.plan.model_dump(mode="json")[kind]
        content = json.dumps(value[name] if name else value, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]
