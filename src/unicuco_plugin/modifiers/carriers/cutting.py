"""The space ``structured`` inside the toolkit's lifecycle: modules become smaller before it calibrates."""

from collections.abc import Callable
from pathlib import Path

from llmcompressor.modifiers import Modifier
from loguru import logger
from torch import nn

from unicuco_plugin.models.blocks.bypass import bypass_blocks
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.checkpoints.checkpoint import rewrite_config
from unicuco_plugin.models.checkpoints.loadability import is_compact
from unicuco_plugin.models.parts.formats import FORMATS
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.kept_parts_file import KEPT_PARTS_FILE, write_kept_parts
from unicuco_plugin.models.parts.shrink import gone_blocks
from unicuco_plugin.models.tensors.snapshot import Snapshot
from unicuco_plugin.modifiers.carriers.achieved import Achieved
from unicuco_plugin.modifiers.carriers.compensating import Folding
from unicuco_plugin.modifiers.carriers.removal import correct_saving

__all__ = ["StructuredHandler"]


class StructuredHandler:
    """Applies one strategy of the space ``structured``, or of ``sublayer``, to one model.

    Linears become smaller when the toolkit initialises, so that it calibrates and quantises what will be saved.
    Modules that go whole wait until it finalises, since it looks for norms inside them by name; until then their
    output projection is zeros.

    Args:
        model: The model that the toolkit works on.
        parts: What stays, already checked against the strategy.
        format: ``compact``, ``deci`` or ``stock``.
        beside: Whether a file that says what stays is written beside the checkpoint.
        folding: Corrects for what goes; nothing by default. The file beside the checkpoint has what it began with.

    Raises:
        UnsupportedModelError: If the format cannot carry this model.
    """

    achieved: Achieved | None = None

    def __init__(
        self, model: nn.Module, parts: KeptParts, format: str, *, beside: bool = True, folding: Folding | None = None
    ) -> None:
        self._decoder, self.parts, self.format, self._beside = find_decoder(model), parts, format, beside
        self._format, self.folding = FORMATS[format], folding or Folding()
        self._format.check(self._decoder, parts)
        self._applied = parts
        self._restore: Callable[[], None] = lambda: None
        self._wake: Callable[[], None] = lambda: None

    @property
    def removed(self) -> frozenset[str]:
        """The modules that go whole; none in the full shape."""
        return frozenset(self.parts.removed) if self.format != "stock" else frozenset()

    @property
    def outcome(self) -> str:
        """What the checkpoint is, once finished: its format, or ``plain`` where all blocks have one size anyway."""
        if self.format != "compact":
            return self.format
        return "compact" if is_compact(self._decoder.model) else "plain"

    def start(self, modifiers: list[Modifier], place: int, removed: frozenset[str]) -> None:
        """Take the parts out: later modifiers calibrate on what is left."""
        self._applied = self.folding.start_parts(self._decoder, self.parts)
        if self.format != "stock":
            self._wake = bypass_blocks(self._decoder, gone_blocks(self._decoder, self._applied))
        self._restore = self._format.open(self._decoder, self._applied)

    def finish(self) -> None:
        """Take out what goes whole, let the configuration say so, and make every later save of the model right.

        Raises:
            UnsupportedModelError: If the configuration cannot describe what is left.
        """
        self._wake()
        model = self._decoder.model
        snapshot = Snapshot(model)
        try:
            fields = self._format.close(self._decoder, self._applied)
        except BaseException:
            snapshot.restore()
            raise
        self.folding.settle()
        if is_compact(model):
            fields |= {"architectures", "auto_map"}
        correct_saving(model, fields, also=self._write_files)
        logger.info(f"SparsityProfileModifier: {len(self.parts.kept)} modules pruned, format {self.format}")

    def undo(self) -> None:
        """Give modules their linears back; calling it again does nothing."""
        self._wake()
        self._restore()
        self.folding.undo()

    def _write_files(self, folder: Path) -> None:
        if self._beside:
            write_kept_parts(folder / KEPT_PARTS_FILE, self.parts)
        if self.format == "deci":
            rewrite_config(folder, self._decoder.model)
        if is_compact(self._decoder.model):
            self._decoder.model.write_code(folder)
