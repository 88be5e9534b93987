"""The space ``structured`` inside the toolkit's lifecycle: modules become smaller before it calibrates."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from llmcompressor.modifiers import Modifier
from loguru import logger
from pydantic import field_validator, model_validator
from torch import nn

from unicuco_plugin.errors import RecipeError
from unicuco_plugin.frozen import Frozen
from unicuco_plugin.models.blocks.bypass import bypass_blocks
from unicuco_plugin.models.blocks.decoder import Decoder, find_decoder
from unicuco_plugin.models.checkpoints.checkpoint import rewrite_config
from unicuco_plugin.models.checkpoints.loadability import is_compact
from unicuco_plugin.models.parts.cuts import check_cuts
from unicuco_plugin.models.parts.deci import check_deci_family
from unicuco_plugin.models.parts.formats import FORMATS
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.kept_parts_file import KEPT_PARTS_FILE, read_kept_parts, write_kept_parts
from unicuco_plugin.models.parts.shrink import gone_blocks
from unicuco_plugin.models.parts.zeroing import check_any_room
from unicuco_plugin.models.tensors.snapshot import Snapshot
from unicuco_plugin.models.tensors.storage import on_accelerator
from unicuco_plugin.modifiers.carriers.achieved import Achieved
from unicuco_plugin.modifiers.carriers.compensating import Folding
from unicuco_plugin.modifiers.carriers.removal import correct_saving
from unicuco_plugin.modifiers.toolkit.ranks import whole_windows
from unicuco_plugin.payload import Payload
from unicuco_plugin.plugins.manager import make_ranking
from unicuco_plugin.pruning import check_parts, whole_modules
from unicuco_plugin.scores.ranked_parts import RankedParts, rank_parts
from unicuco_plugin.strategy import Strategy
from unicuco_plugin.traits import cutting, silencing

__all__ = ["StructuredHandler", "StructuredOptions", "check_options", "find_beside"]


class StructuredOptions(Frozen):
    """How a structured strategy is carried out, or one of sub-layers in the form ``deci``.

    Attributes:
        format: ``compact``: physically smaller. ``deci``: so, too, as ``DeciLMForCausalLM``, which vLLM loads; for
            models that compute what Llama does, without biases and parts of attentions. ``stock``: zeros in the full
            shape, which loads everywhere and is no smaller. ``auto``: ``deci`` where it is the smallest form that vLLM
            loads, otherwise as without it.
        kept_parts: A file that says which parts stay, as an export has one beside it. Without it a profile knows
            which parts of a module go first, and for other strategies parts are ranked on the toolkit's calibration
            text.
        ranking: Ranks parts on that text in any case: a name that ``unicuco plugins`` lists; ``flap`` if left out.
        compensate: Whether what ranked parts gave on average is added to their module's output; if left out, as the
            profile was trained, and for other strategies it is.
    """

    format: Literal["auto", "compact", "deci", "stock"] = "compact"
    kept_parts: str | None = None
    ranking: str | None = None
    compensate: bool | None = None

    @field_validator("kept_parts", mode="before")
    @classmethod
    def _read_path(cls, value: object) -> object:
        return str(value) if isinstance(value, Path) else value

    @field_validator("ranking")
    @classmethod
    def _check_ranking(cls, value: str | None) -> str | None:
        if value is not None:
            make_ranking(value)
        return value

    @model_validator(mode="after")
    def _check_given(self) -> Self:
        given = [name for name in ("ranking", "compensate") if getattr(self, name) is not None]
        if self.kept_parts is not None and given:
            raise ValueError(f"kept_parts says which parts and biases stay; leave {' and '.join(given)} out")
        return self

    def needs_text(self, strategies: Iterable[Strategy], *, known: bool) -> bool:
        """Whether parts have to be ranked on text; ``known`` says that a profile knows their order."""
        if self.kept_parts is not None or (known and self.ranking is None):
            return False
        return any(strategy.traits.cuts and not whole_modules(strategy) for strategy in strategies)

    def check_family(self, decoder: Decoder) -> None:
        """Refuse what no strategy could change, before one is searched for.

        Raises:
            UnsupportedModelError: If the format cannot carry biases in this family, or parts cannot go one by one.
        """
        check_cuts(decoder)
        if self.format == "deci":
            check_deci_family(decoder)
        if self.format == "stock" and self.compensate is not False and self.kept_parts is None:
            check_any_room(decoder)

    def settled(self) -> Self:
        """The same where the parts lie in the file that an export has beside its recipe."""
        return self.model_copy(update={"kept_parts": KEPT_PARTS_FILE, "ranking": None, "compensate": None})

    def choose(
        self,
        decoder: Decoder,
        strategy: Strategy,
        batches: Iterable[Mapping[str, Any]] | None,
        payload: Payload | None = None,
    ) -> KeptParts:
        """Find out which parts stay.

        Args:
            decoder: The dense model.
            strategy: A strategy of the space ``structured``.
            batches: The toolkit's calibration data.
            payload: The order that a profile knows.

        Raises:
            RecipeError: If parts have to be ranked and there is no text.
            StrategyError: If the file cannot be read, or is not for this strategy.
            UnsupportedModelError: If the model's modules cannot be split into parts.
        """
        parts = whole_modules(strategy)
        known = None if payload is None else RankedParts.of(payload)
        if self.kept_parts is not None:
            parts = read_kept_parts(Path(self.kept_parts))
        elif known is not None or parts is None:
            own = known is not None and self.ranking is None
            ranked = known if known is not None and own else self._rank(decoder, batches)
            compensate = ranked.compensate if self.compensate is None else self.compensate
            parts = replace(ranked, compensate=compensate).keep(decoder, strategy.shares)
            parts = replace(parts, measured=own and compensate == ranked.compensate)
        check_parts(decoder, strategy, parts)
        return parts

    def _rank(self, decoder: Decoder, batches: Iterable[Mapping[str, Any]] | None) -> RankedParts:
        if batches is None:
            raise RecipeError("structured: parts are ranked on calibration text, got none; or give kept_parts")
        with on_accelerator(decoder.model):
            return rank_parts(decoder, whole_windows(batches), make_ranking(self.ranking or "flap"))


def find_beside(options: StructuredOptions | None, folder: Path) -> StructuredOptions | None:
    """The same, with kept parts that do not lie where they are said to taken from a recipe's own folder."""
    if options is None or options.kept_parts is None or Path(options.kept_parts).exists():
        return options
    beside = folder / options.kept_parts
    return options.model_copy(update={"kept_parts": str(beside)}) if beside.is_file() else options


def check_options(options: StructuredOptions | None, spaces: Sequence[str]) -> None:
    """Refuse options that have no strategy to carry out.

    Raises:
        RecipeError: If there are some, and none of the spaces is ``structured``, or ``sublayer`` in the form ``deci``.
    """
    if options is None or cutting(spaces):
        return
    if not (
        silencing(spaces) and options.format in ("auto", "deci") and options == StructuredOptions(format=options.format)
    ):
        given = ", ".join(options.model_dump(exclude_unset=True))
        raise RecipeError(
            f"structured ({given}) goes with a strategy of the space 'structured', got {' and '.join(spaces)}; leave "
            "it out (the formats auto and deci also go with 'sublayer')"
        )


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
        folding: Corrects for halves that go whole; nothing by default.

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
        self.folding.start(self._decoder, self.parts.removed, halves=True)
        if self.format != "stock":
            self._wake = bypass_blocks(self._decoder, gone_blocks(self._decoder, self.parts))
        self._restore = self._format.open(self._decoder, self.parts)

    def finish(self) -> None:
        """Take out what goes whole, let the configuration say so, and make every later save of the model right.

        Raises:
            UnsupportedModelError: If the configuration cannot describe what is left.
        """
        self._wake()
        model = self._decoder.model
        snapshot = Snapshot(model)
        try:
            fields = self._format.close(self._decoder, self.parts)
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
