"""The commands that write, on a tiny random model: how each is called, and how it goes on after a kill."""

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from kill_digests import Digest, benchmark_of, files_of, profile_of
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["COMMANDS", "Command", "calls_for", "make_inputs"]

_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
_VOCABULARY = 128
_BLOCKS = 4
_DROPS = {"drops": ("none", "attn+mlp", "none", "none"), "older": ("none", "attn+mlp", "mlp", "none")}


def _words(line: str) -> tuple[str, ...]:
    return tuple(line.split())


_TRAIN = _words(
    "train --model {inputs}/dense --output {output} --calibration {inputs}/text.txt --tokens 64 --seq-length 16 "
    "--rank-tokens 32 --rank-seq-length 16 --initial 8 --epochs 1 --steps 5 --imitation 10 --pool 32 --picks 2 "
    "--starts 1 --rerank 1 --verify 1 --batch 4"
)
_LEVELS = _words(
    "levels build --model {inputs}/dense --output {output} --calibration {inputs}/text.txt --samples 4 --seq-length 16"
)
_PRUNE = _words("prune --model {inputs}/dense --output {output} --evopress")


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        call: Its arguments; ``{inputs}`` and ``{output}`` stand for paths.
        digest: What must be equal of two outputs.
        output: The output's name.
        older: The call that made what is there already and is replaced.
        again: What a killed run may go on with, where that is another call; tried first.
        kept: Of an older output, the files that stay until the new ones take their place, by the ends of their names;
            none of a level database, which ``--overwrite`` removes first.
        inside: Whether files of the user may lie in the output.
        exchange: Whether the system can exchange two names.
    """

    call: tuple[str, ...]
    digest: Callable[[Path], Digest] = files_of
    output: str = "out"
    older: tuple[str, ...] | None = None
    again: tuple[str, ...] | None = None
    kept: tuple[str, ...] = ("",)
    inside: bool = False
    exchange: bool = True


def _over(command: Command, older: tuple[str, ...], **fields: Any) -> Command:
    """The command with ``--overwrite``, over what another call left."""
    return replace(command, call=(*command.call, "--overwrite"), older=older, **fields)


_prune = Command((*_PRUNE, "{inputs}/drops.txt"))
_unpack = Command(_words("unpack {inputs}/export.unicuco --output {output}"))
_pack = Command(_words("pack {inputs}/export --output {output}"), output="out.unicuco")
_build = Command((*_LEVELS, "--sparsities", "0.5,0.75"), profile_of)
_train = Command(_TRAIN, profile_of, inside=True)

COMMANDS = {
    "prune": _prune,
    "prune --overwrite": _over(_prune, (*_PRUNE, "{inputs}/older.txt")),
    "unpack": _unpack,
    "unpack --overwrite": _over(_unpack, _words("unpack {inputs}/older.unicuco --output {output}")),
    "unpack --overwrite, by two renames": _over(
        _unpack, _words("unpack {inputs}/older.unicuco --output {output}"), exchange=False
    ),
    "pack": _pack,
    "pack --overwrite": _over(_pack, _words("pack {inputs}/older --output {output}")),
    "levels build": replace(_build, again=(*_build.call, "--resume")),
    "levels build --overwrite": _over(
        _build, (*_LEVELS, "--sparsities", "0.25"), again=(*_build.call, "--resume"), kept=(), inside=True
    ),
    "train": replace(_train, again=(*_TRAIN, "--resume")),
    "train --overwrite": _over(
        _train, (*_TRAIN, "--seed", "1"), again=(*_TRAIN, "--resume"), kept=("profile.json", ".safetensors")
    ),
    "benchmark": Command(
        _words("benchmark {inputs}/plan.yaml --output {output}"), benchmark_of, output="runs", inside=True
    ),
    "show --plot": Command(_words("show {inputs}/profile --plot {output}"), output="front.png"),
}


# What makes the inputs that commands make, in order, by name.
_MADE = {
    "export": (*_PRUNE, "{inputs}/drops.txt"),
    "older": (*_PRUNE, "{inputs}/older.txt"),
    "export.unicuco": _words("pack {inputs}/export --output {output}"),
    "older.unicuco": _words("pack {inputs}/older --output {output}"),
    "profile": _TRAIN,
}


def make_inputs(folder: Path) -> None:
    """Write model, texts and files."""
    folder.mkdir(parents=True)
    _save_model(folder / "dense")
    chance = random.Random(0)  # noqa: S311
    words = [f"w{number}" for number in range(_VOCABULARY - len(_SPECIAL))]
    lines = [" ".join(chance.choices(words, k=50)) for _ in range(250)]
    (folder / "text.txt").write_text("\n\n".join(lines), encoding="utf8")
    for name, drops in _DROPS.items():
        (folder / f"{name}.txt").write_text("\n".join(drops) + "\n", encoding="utf8")
    (folder / "plan.yaml").write_text(json.dumps(_plan(folder)), encoding="utf8")  # which YAML is, too


def calls_for(names: Iterable[str], folder: Path) -> list[list[str]]:
    """The calls that make the inputs of these commands, beside what :func:`make_inputs` wrote."""
    read = {part for name in names for part in (*COMMANDS[name].call, *(COMMANDS[name].older or ()))}
    calls: list[list[str]] = []
    for name, call in reversed(_MADE.items()):
        if f"{{inputs}}/{name}" in read:
            read.update(call)
            calls.insert(0, [part.format(inputs=folder, output=folder / name) for part in call])
    return calls


def _save_model(folder: Path) -> None:
    config = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=_BLOCKS,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).eval().save_pretrained(folder)
    names = [*_SPECIAL, *(f"w{number}" for number in range(_VOCABULARY - len(_SPECIAL)))]
    raw = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))  # noqa: S106
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), _SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=raw, **special).save_pretrained(folder)


def _plan(folder: Path) -> dict[str, Any]:
    sources = [str(folder / "text.txt")]
    return {
        "model": str(folder / "dense"),
        "calibration": {"sources": sources, "windows": 70, "seq_length": 128},
        "evaluation": {"text": {"sources": sources, "windows": 4, "seq_length": 16}},
        "budgets": [0.5],
        "methods": {"shortgpt": {"peer": "shortgpt"}, "evopress": {"peer": "evopress", "setting": "super_fast"}},
    }
