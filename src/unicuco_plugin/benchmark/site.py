"""What a benchmark compares methods on: a model, and texts cut for it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from unicuco_plugin.benchmark.plan import BenchmarkPlan
from unicuco_plugin.benchmark.texts import Texts
from unicuco_plugin.levels.experts import split_experts
from unicuco_plugin.models.blocks.decoder import Decoder, find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.exportable import check_exportable
from unicuco_plugin.models.loading import load_config, load_model
from unicuco_plugin.models.tensors.storage import compute_device
from unicuco_plugin.traits import traits_of

__all__ = ["BenchmarkSite"]


@dataclass(frozen=True)
class BenchmarkSite:
    """A model, loaded, and texts.

    Attributes:
        plan: Names both.
        texts: Cut into windows.
        decoder: The dense model; where answers come from a level database, experts are linears.
        trust_remote_code: Whether code in the model's own repository may run.
    """

    plan: BenchmarkPlan
    texts: Texts
    decoder: Decoder
    trust_remote_code: bool = False

    @classmethod
    def open(
        cls, plan: BenchmarkPlan, tell: Callable[[str], None] = lambda _: None, *, trust_remote_code: bool = False
    ) -> Self:
        """Cut texts and load the model.

        Args:
            plan: Names both.
            tell: Told that the model is loaded, and where it goes.
            trust_remote_code: As the attribute.

        Raises:
            UnsupportedModelError, CalibrationError: See those who raise them.
        """
        code: dict[str, Any] = {"trust_remote_code": trust_remote_code}
        check_exportable(load_config(plan.model, **code), plan.space, **code)
        texts = Texts(plan, **code)
        tell("")
        model = load_model(plan.model, dtype=plan.dtype, device=plan.device, offload=plan.offload, tell=tell, **code)
        decoder = find_decoder(model)
        if traits_of(plan.space).on_levels:
            split_experts(decoder.model)
        return cls(plan, texts, decoder, trust_remote_code)

    @cached_property
    def header(self) -> dict[str, str]:
        """What tells the measurements of a benchmark from those of others."""
        model = self.decoder.model
        return {
            "model": str(fingerprint(model)),
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": self.plan.device if self.plan.device != "auto" else compute_device(model).type,
            "space": self.plan.space,
        }
