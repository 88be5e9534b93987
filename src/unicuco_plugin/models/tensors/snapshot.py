"""A model's modules, attributes and configuration as they were, to put back; weights are not copied."""

from torch import nn
from transformers import PreTrainedModel

from unicuco_plugin.models.tensors.storage import kept_tensors

__all__ = ["Snapshot"]


class Snapshot:
    """Which modules a model has and what they and the configuration say, at one moment.

    Args:
        model: The model. Tensors changed in place later stay changed.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model, self._kind = model, type(model)
        with kept_tensors():
            self._modules = [
                (module, dict(vars(module)), dict(module._modules), dict(module._parameters))
                for module in model.modules()
            ]
        self._configs: list[tuple[object, dict[str, object]]] = []
        seen: set[int] = set()
        for module in model.modules():
            config = getattr(module, "config", None)
            if config is not None and not isinstance(config, nn.Module) and id(config) not in seen:
                seen.add(id(config))
                self._configs.append((config, dict(vars(config))))

    def restore(self) -> None:
        """Put everything back; the model may be used and restored again."""
        self._model.__class__ = self._kind
        for module, attributes, modules, parameters in self._modules:
            vars(module).clear()
            vars(module).update(attributes)
            with kept_tensors():
                for own, before in ((module._modules, modules), (module._parameters, parameters)):
                    own.clear()
                    own.update(before)
        for config, fields in self._configs:
            vars(config).clear()
            vars(config).update(fields)
