"""The windows that a benchmark calibrates and measures on."""

from typing import Any

from torch import Tensor

from unicuco_plugin.benchmark.method import Text
from unicuco_plugin.benchmark.plan import BenchmarkPlan, Cell
from unicuco_plugin.errors import CalibrationError
from unicuco_plugin.models.loading import load_tokenizer
from unicuco_plugin.models.reach import load_reach
from unicuco_plugin.texts.calibration import calibration_hash, load_windows

__all__ = ["Texts"]


class Texts:
    """A benchmark's texts, cut into windows by its model's tokenizer; the model's weights are not needed.

    Args:
        plan: Names the texts.
        trust_remote_code: Whether code in the model's own repository may run.

    Raises:
        CalibrationError: If a text is missing, unreadable or too short, or the model cannot be given such
            windows; the message names the field.
        UnsupportedModelError: If the model has no tokenizer.
    """

    def __init__(self, plan: BenchmarkPlan, *, trust_remote_code: bool = False) -> None:
        self._plan = plan
        code: dict[str, Any] = {"trust_remote_code": trust_remote_code}
        self._tokenizer, self._reach = load_tokenizer(plan.model, **code), load_reach(plan.model, **code)
        self._larger: dict[int, Tensor] = {}
        self.calibration: Tensor = self._cut("calibration", plan.calibration)
        self.evaluation: dict[str, Tensor] = {
            name: self._cut(f"evaluation.{name}", text) for name, text in plan.evaluation.items()
        }
        named = {f"evaluation.{name}": windows for name, windows in self.evaluation.items()}
        # What every text held, by its field in the YAML.
        self.hashes = {
            field: calibration_hash(text) for field, text in ({"calibration": self.calibration} | named).items()
        }
        for cell in plan.cells():  # so that text too short for a method is told now, too
            self.of_cell(cell)

    def of_cell(self, cell: Cell) -> Tensor:
        """What a peer reads: the benchmark's calibration windows, the first of them, or more of the same text."""
        count = cell.method.windows
        if count is None or count <= len(self.calibration):
            return self.calibration[:count]
        if count not in self._larger:
            text = self._plan.calibration.model_copy(update={"windows": count})
            self._larger[count] = self._cut(f"methods.{cell.name}.windows", text)
        return self._larger[count]

    def _cut(self, field: str, text: Text) -> Tensor:
        try:
            return load_windows(
                text.sources,
                self._tokenizer,
                count=text.windows,
                length=text.seq_length,
                seed=text.seed,
                reach=self._reach,
            )
        except CalibrationError as error:
            raise CalibrationError(f"{field}: {error}") from error
