"""Whether two models are the same: one hash of their structure, one of their weights."""

import copy
import dataclasses
import hashlib
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from unicuco_plugin.errors import ModelMismatchError, quoted
from unicuco_plugin.models.blocks.experts import fused_parameters
from unicuco_plugin.models.tensors.storage import kept_tensors
from unicuco_plugin.models.tensors.tensor_facts import TensorFacts

__all__ = ["Fingerprint", "config_fingerprint", "fingerprint"]

# Hexadecimal digits kept of each SHA-256: 64 bits, as identifiers that nobody attacks need.
_DIGITS = 16
# Weights hashed at a time: 32 MiB in bfloat16, so that a large model needs little memory beside itself.
_CHUNK = 2**24
# Tensors that are hashed side by side, and their bytes together, unless one alone has more.
_THREADS, _HELD = 8, 2**30
# Fields that change neither the tensors nor what a forward pass computes with them.
_NOT_STRUCTURE = re.compile(
    r"_.*|.*token_id|.*token_index|.*dropout|.*layerdrop|layer_drop|.*_pdrop|initializer_.*|.*init_std|.*aux_loss.*|"
    r"transformers_version|architectures|dtype|torch_dtype|use_cache|quantization_config|pretraining_tp|"
    r"output_.*|return_dict|chunk_size_feed_forward|id2label|label2id|num_labels|problem_type|is_decoder|"
    r"is_encoder_decoder|add_cross_attention|cross_attention_hidden_size|tie_encoder_decoder|name_or_path|"
    r"task_specific_params|tokenizer_class|prefix|finetuning_task|torchscript|gradient_checkpointing|"
    r"base_model_.*|attn_implementation|experts_implementation|auto_map|per_layer_config|fusion_config"
)


@dataclass(frozen=True)
class Fingerprint:
    """What a model is, in two hashes.

    Attributes:
        structure: Hash of the structural configuration fields, 16 hexadecimal digits.
        weights: Hash of the weights rounded to bfloat16, 16 hexadecimal digits.
    """

    structure: str
    weights: str

    def __str__(self) -> str:
        return f"{self.structure}.{self.weights}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``structure.weights`` back.

        Raises:
            ModelMismatchError: If the text is not a fingerprint.
        """
        match = re.fullmatch(rf"([0-9a-f]{{{_DIGITS}}})\.([0-9a-f]{{{_DIGITS}}})", text)
        if match is None:
            raise ModelMismatchError(f"a fingerprint is two groups of {_DIGITS} hexadecimal digits, got {quoted(text)}")
        return cls(match[1], match[2])


def fingerprint(model: PreTrainedModel) -> Fingerprint:
    """Hash a model so that the same one saved in float32 or bfloat16, in one file or many, matches.

    Tensors are hashed side by side, up to eight or a gibibyte of them. What is offloaded to disk and lies in files that
    were hashed before and have not changed since is not read.

    Args:
        model: The model, on any device. It must have its trained blocks: bypassing does not show, dropping does.
    """
    facts = TensorFacts(model, "sha256")
    with kept_tensors():
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    known = {name: fact for name in shapes if (fact := facts.get(name)) is not None}
    lines = [f"{name}:{shapes[name]}:{fact}\n" for name, fact in known.items()]
    # A tied parameter comes once, under its first name.
    tensors = (
        (name, part, tensor)
        for name, parameter in fused_parameters(model, known)
        for part, tensor in _unfuse(model, name, parameter)
    )
    for name, part, shape, hashed in _hash_all(tensors):
        lines.append(f"{part}:{shape}:{hashed}\n")
        if (part, shape) == (name, shapes.get(name)):
            facts.note(name, hashed)
    facts.keep()
    digest = hashlib.sha256("".join(sorted(lines)).encode())
    return Fingerprint(config_fingerprint(model.config), digest.hexdigest()[:_DIGITS])


def config_fingerprint(config: PreTrainedConfig) -> str:
    """The structure part alone, from a configuration, without loading weights."""
    text = json.dumps(_structure(config), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _unfuse(model: PreTrainedModel, name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
    """Fused experts one by one where they are so on disk."""
    if tensor.dim() == 3 and re.search(r"\.experts\.\w+$", name):
        return revert_weight_conversion(model, {name: tensor}).items()
    return [(name, tensor)]


def _hash_all(tensors: Iterable[tuple[str, str, Tensor]]) -> Iterator[tuple[str, str, tuple[int, ...], str]]:
    """Hash tensors in threads, a few of them in memory at a time: hashing and copying hold no lock."""
    threads = min(torch.get_num_threads(), _THREADS)
    waiting: deque[tuple[str, str, tuple[int, ...], Future[str], int]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for name, part, tensor in tensors:
            held = tensor.cpu()  # where it was computed with there may be no room for several
            while waiting and (len(waiting) == threads or held.nbytes + sum(job[-1] for job in waiting) > _HELD):
                yield _done(*waiting.popleft())
            waiting.append((name, part, tuple(tensor.shape), pool.submit(_hash, held), held.nbytes))
            del tensor, held
        while waiting:
            yield _done(*waiting.popleft())


def _done(
    name: str, part: str, shape: tuple[int, ...], job: Future[str], _: int
) -> tuple[str, str, tuple[int, ...], str]:
    return name, part, shape, job.result()


def _hash(tensor: Tensor) -> str:
    digest = hashlib.sha256()
    flat = tensor.reshape(-1)
    for start in range(0, flat.numel(), _CHUNK):
        chunk = flat[start : start + _CHUNK].to(device="cpu", dtype=torch.bfloat16).contiguous()
        digest.update(chunk.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _structure(config: PreTrainedConfig) -> dict[str, Any]:
    """Structural fields in one spelling; those that Transformers' class does not declare are decoration from the hub.

    A class from a model's own repository may set fields that it never declares: there, all of them count.
    """
    if type(config).__module__.startswith("transformers."):
        names = {field.name for field in dataclasses.fields(config)}
    else:
        names = set(config.to_dict())
    fields: dict[str, Any] = {"model_type": config.model_type}
    if getattr(config, "is_heterogeneous", False):
        # Sizes that differ between blocks cannot be read from the configuration itself.
        fields["per_layer_config"] = _normal(config.to_dict()["per_layer_config"])
        config = copy.copy(config)
        config.per_layer_config = None
    for name in sorted(names):
        value = getattr(config, name, None)
        if value is None or _NOT_STRUCTURE.fullmatch(name):
            continue
        fields[name] = _structure(value) if isinstance(value, PreTrainedConfig) else _normal(value)
    return fields


def _normal(value: object) -> object:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, float):
        # A config read from GGUF says 9.999999747378752e-06 where the hub's says 1e-05.
        return int(value) if value.is_integer() else f"{value:.6g}"
    if isinstance(value, int):
        return value
    if isinstance(value, Mapping):
        return {str(key): _normal(entry) for key, entry in sorted(value.items(), key=str) if entry is not None}
    if isinstance(value, list | tuple | set | frozenset):
        return [_normal(entry) for entry in value]
    return str(value)
