"""One configuration through one space: trained, pruned, and judged by a process that knows nothing of ours."""

import contextlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self
from unittest import mock

import torch
from tiny import VOCABULARY, WORDS
from transformers.utils import logging

from unicuco_plugin.errors import ExportError, UnicucoError, UnsupportedModelError
from unicuco_plugin.levels.build import build_levels
from unicuco_plugin.levels.settings import LevelSettings
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.exportable import check_exportable
from unicuco_plugin.models.loading import load_config, load_model, load_tokenizer
from unicuco_plugin.models.parts.kept_parts_file import KEPT_PARTS_FILE, read_kept_parts
from unicuco_plugin.models.parts.parts import find_parts
from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe
from unicuco_plugin.modifiers.export.result import Export
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.modifiers.toolkit.log import set_toolkit_verbosity
from unicuco_plugin.policy import descent
from unicuco_plugin.search import surrogate
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.strategy import Strategy, split_halves
from unicuco_plugin.training import JOURNAL, train_profile
from unicuco_plugin.training.subject import UnitOptions
from zoo.families import save

__all__ = ["RIGHT", "SPACES", "Cage", "Reader", "quietly"]

SPACES = ("depth", "sublayer", "sparsity", "structured")
RIGHT = "right"
# Of what may go; of four blocks that is two.
_SHARE = 0.4
# What training asks of a model and a strategy written by hand does not.
_OF_TRAINING = (
    "a profile needs blocks of one size",
    "a profile needs two or more blocks",
    "a level database is made of",
    "cannot be run one by one",
)
_DIGITS = re.compile(r"\d+")
# Zeros in rows of 32 weights come in thirty-seconds, rounded one by one.
_ROUNDING = 0.02
_SMALLEST = Settings(
    tokens=16, seq_length=8, rank_tokens=16, rank_seq_length=8, rerank=0, initial=6, verify=0, epochs=0, steps=1,
    imitation=1, pool=4, picks=1, target="log", neighbours=False, starts=0,
)  # fmt: skip


class Reader:
    """The process that judges; one serves many folders."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        script = Path(__file__).with_name("reader.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip

    def judge(self, job: dict[str, Any]) -> str:
        """What is wrong with a folder; empty where nothing is."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return str(json.loads(self._process.stdout.readline()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


class Cage:
    """One configuration on the disk, and what is done with it.

    Args:
        name: Of the configuration.
        home: An empty folder.
        reader: Judges what is written.
    """

    def __init__(self, name: str, home: Path, reader: Reader) -> None:
        self.name, self.home, self.reader = name, home, reader
        self.dense = home / "dense"
        save(name, self.dense)
        text = home / "text.txt"
        chance = random.Random(0)  # noqa: S311
        text.write_text("\n\n".join(" ".join(chance.choices(WORDS, k=50)) for _ in range(20)), encoding="utf8")
        # Qwen2's class of tokenizers, which Transformers takes whatever the folder says, reads none of these words.
        self.sources = [str(text)] if load_tokenizer(self.dense)(WORDS[0])["input_ids"] else []

    def outcome(self, space: str) -> str:
        """``right``, ``refused: …``, ``refused in training: …`` (pruning by hand works) or ``wrong: …``."""
        try:
            with _hurry():
                return self._train_and_prune(space).replace(f"{self.dense}", "dense")
        except Exception as error:  # whatever went wrong is what is to be told
            kind = "" if isinstance(error, UnicucoError) else f"{type(error).__name__}: "
            return f"wrong: {kind}{error}"
        finally:
            for folder in self.home.glob(f"{space}-*"):
                shutil.rmtree(folder)

    def _train_and_prune(self, space: str) -> str:
        stages: list[str] = []
        try:
            profile = self._train(space, lambda progress: stages.append(progress.stage))
        except UnsupportedModelError as refusal:
            late = self._worked(space, stages)
            if late:
                return f"wrong: refused late, {late}: {refusal}"
            return self._refused_in_pruning(space, str(refusal))
        strategy = profile.answer(sparsity=_SHARE)
        answer = {"profile": str(self.home / f"{space}-profile"), "request": {"sparsity": _SHARE}}
        done, way = self._prune_somehow(space, answer)
        wrong = self.reader.judge(self._job(space, done, strategy))
        return f"wrong: {wrong}" if wrong else RIGHT + way

    def _prune_somehow(self, space: str, answer: dict[str, Any]) -> tuple[Export, str]:
        """By default, or in the other way that users have; says which."""
        try:
            return self._prune(space, **answer), ""
        except UnsupportedModelError:
            if space != "structured":
                raise
            stock = {"format": "stock", "compensate": False}
            return self._prune(space, **answer, structured=stock), " (format stock)"
        except ExportError as error:
            # The toolkit's own pass does not run on every family: what it cannot trace, and what it multiplies wrong.
            if space != "sparsity" or not any(
                words in str(error) for words in ("cannot trace", "llm-compressor failed")
            ):
                raise
            return self._prune(space, **answer, levels=str(self.home / "sparsity-levels")), " (from levels)"

    def _train(self, space: str, progress: Callable[[Any], None]) -> Any:
        if space != "structured":
            units = UnitOptions(levels=self._levels()) if space == "sparsity" else None
            return self._profile(space, units, progress)
        try:
            return self._profile(space, UnitOptions(round_to=8), progress)
        except UnsupportedModelError as refusal:
            if "--no-compensate" not in str(refusal):
                raise
            return self._profile(space, UnitOptions(round_to=8, compensate=False), progress)

    def _profile(self, space: str, units: UnitOptions | None, progress: Callable[[Any], None]) -> Any:
        return train_profile(
            self.dense, self.home / f"{space}-profile", space=space, units=units, calibration=self.sources,
            settings=_SMALLEST, progress=progress,
        )  # fmt: skip

    def _levels(self) -> Path:
        """As ``unicuco levels build`` makes it."""
        check_exportable(load_config(self.dense), "sparsity")
        folder = self.home / "sparsity-levels"
        build_levels(
            find_decoder(load_model(self.dense)), self._windows(), folder, name=self.name,
            settings=LevelSettings(sparsities=(0.3, 0.6)),
        )  # fmt: skip
        return folder

    def _windows(self) -> torch.Tensor:
        return torch.randint(4, VOCABULARY, (8, 16), generator=torch.Generator().manual_seed(0))

    def _worked(self, space: str, stages: list[str]) -> str:
        """What had been begun before a refusal; empty where only the model was looked at."""
        if set(stages) - {"loading the model"}:
            return f"in {stages[-1]}"
        if (self.home / f"{space}-profile" / JOURNAL).exists():
            return "with a journal"
        return "with levels" if any(self.home.glob("sparsity-levels/*.safetensors")) else ""

    def _prune(self, space: str, **source: Any) -> Export:
        modifiers: list[Any] = [SparsityProfileModifier(**source)]
        if space == "sparsity" and "levels" not in source:
            # Its masks leave other weights as they were, so that the dense model can be masked by hand.
            from llmcompressor.modifiers.pruning import WandaPruningModifier

            modifiers.append(WandaPruningModifier(sparsity=0.5, ignore=["re:.*lm_head"]))
        windows = self._windows() if len(modifiers) > 1 else None
        return prune_with_recipe(self.dense, modifiers, self.home / f"{space}-pruned", calibration=windows)

    def _refused_in_pruning(self, space: str, reason: str) -> str:
        try:
            strategy = self._by_hand(space, reason)
            done = self._prune(space, strategy=strategy.to_dict())
        except UnsupportedModelError as refusal:
            # Which block is named depends on the strategy, and what can be asked instead on who asks.
            if (
                _DIGITS.sub("N", str(refusal)) == _DIGITS.sub("N", reason)
                or _covers(str(refusal)) == _covers(reason) != ""
            ):
                return f"refused: {reason}"
            if any(words in reason for words in _OF_TRAINING):
                return f"refused: {refusal}"
            return f"wrong: train refuses: {reason}; prune: {refusal}"
        except ExportError as error:
            if "llm-compressor failed" in str(error):  # its own pass, and nothing is written
                return f"refused: {error}"
            raise
        if not any(words in reason for words in _OF_TRAINING):
            return f"wrong: train refuses what prune does: {reason}"
        wrong = self.reader.judge(self._job(space, done, strategy))
        return f"wrong: by hand: {wrong}" if wrong else f"refused in training: {reason}"

    def _by_hand(self, space: str, reason: str) -> Strategy:
        """The smallest strategy there is: something of the second block goes, of its halves the one with a reason."""
        model = load_model(self.dense)
        block = f"{_blocks(model)}.1"
        inside = [name.removeprefix(f"{block}.") for name, _ in model.get_submodule(block).named_children()]
        told = re.findall(r"\.(\w+):", reason)
        inside.sort(key=lambda name: name not in told)
        half = f"{block}.{next((name for name in inside if name in told or 'att' in name), inside[0])}"
        linears = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
        linear = next((name for name in linears if name.startswith(f"{block}.")), half)
        units = {"depth": {block: 1.0}, "sparsity": {linear: 0.5}}.get(space, {half: 1.0})
        return Strategy.from_dict(
            {
                "schema": 1, "space": space, "request": {"sparsity": 0.3}, "sparsity": 0.3, "params": 1, "bytes": 1,
                "model": {"name": self.name, "fingerprint": str(fingerprint(model))},
                "source": "archive", "divergence": None, "units": units,
            }
        )  # fmt: skip

    def _job(self, space: str, done: Export, strategy: Strategy) -> dict[str, Any]:
        job: dict[str, Any] = {"space": space, "dense": str(self.dense), "pruned": str(done.path), "own_code": False}
        if space == "depth":
            job["bypass"] = list(strategy.units)
        elif space == "sublayer":
            job["bypass"], job["silence"] = split_halves(strategy.units)
        elif space == "sparsity":
            assert done.achieved is not None
            job["zeros"] = done.achieved.total("exported")
            # Levels change what they keep.
            job["solved"] = [linear.name for linear in done.achieved.linears] if done.achieved.levels else []
            off = abs(job["zeros"] - done.achieved.total("planned")) / done.achieved.weights
            assert off < _ROUNDING, f"{off:.1%} more or less of the weights are zero than was asked"
        else:
            job["own_code"] = done.format == "compact"
            job["cuts"] = self._cuts(done.path, strategy)
        return job

    def _cuts(self, pruned: Path, strategy: Strategy) -> list[dict[str, Any]]:
        parts, kept = find_parts(find_decoder(load_model(self.dense))), read_kept_parts(pruned / KEPT_PARTS_FILE)
        cuts = []
        for name, share in strategy.units.items():
            part = parts[name]
            stays = kept.kept[name]
            assert len(stays) == part.count - round(share * part.count), "another number of parts than the share says"
            channels = [float(index // part.width in stays) for index in range(part.count * part.width)]
            bias = kept.biases.get(name)
            cuts.append({"output": part.output, "channels": channels, "bias": None if bias is None else bias.tolist()})
        assert set(kept.kept) <= set(strategy.units), "parts are gone that the strategy does not name"
        return cuts


def _covers(reason: str) -> str:
    """How little of a model its linears have, where that is the reason."""
    found = re.search(r"linears have [\d.]+%", reason)
    return found[0] if found else ""


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep words and bars of Transformers and the toolkit off the terminal."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        set_toolkit_verbosity(verbose=False)
        yield


@contextlib.contextmanager
def _hurry() -> Iterator[None]:
    """Let the search stop long before it is any good: what it removes is right however it was found."""
    short = ((descent, "_STEPS", 0), (descent, "_FEW", 1), (descent, "_LONGEST", 1), (surrogate, "_MAXITER", 2))
    with contextlib.ExitStack() as stack:
        for module, name, value in short:
            stack.enter_context(mock.patch.object(module, name, value))
        yield


def _blocks(model: torch.nn.Module) -> str:
    lists = [name for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)]
    return min(lists, key=len)
