"""What is known of tensors that lie in a checkpoint's own files, without reading them again."""

from collections import defaultdict
from pathlib import Path

from compressed_tensors.offload.cache import DiskCache
from torch import nn

from unicuco_plugin.files.facts import FileFacts
from unicuco_plugin.models.tensors.storage import kept_tensors

__all__ = ["TensorFacts"]


class TensorFacts:
    """One kind of fact about the parameters of a model that is offloaded to disk.

    Only for what is still in the files that the model was loaded from: the toolkit's folder holds a link to these, and
    a file of its own once a weight was written.

    Args:
        model: Any; of parameters in memory nothing is known.
        kind: What the facts are, such as ``sha256``.
    """

    def __init__(self, model: nn.Module, kind: str) -> None:
        with kept_tensors():
            entries = {name: DiskCache.index.get(parameter) for name, parameter in model.named_parameters()}
        links = {name: (Path(entry["safetensors_file"]), entry) for name, entry in entries.items() if entry}
        self._places = {
            name: (link.resolve(), f"{kind} {entry['dtype']} {entry['weight_name']}")
            for name, (link, entry) in links.items()
            if link.is_symlink() and link.resolve().parent != link.parent.resolve()  # what loading saved beside it
        }
        self._files = {path: FileFacts(path) for path in {path for path, _ in self._places.values()}}
        self._new: dict[Path, dict[str, str]] = defaultdict(dict)

    def get(self, name: str) -> str | None:
        """The fact about a parameter; None where it is not known."""
        if name not in self._places:
            return None
        path, key = self._places[name]
        return self._files[path].get(key)

    def note(self, name: str, fact: str) -> None:
        """Note what was found; of parameters that lie in no such file it is forgotten."""
        if name in self._places:
            path, key = self._places[name]
            self._new[path][key] = fact

    def keep(self) -> None:
        """Keep what was noted, for as long as the files do not change."""
        for path, facts in self._new.items():
            self._files[path].keep(facts)
