"""The model card of an exported checkpoint: what was removed, by which request, and what that is known to cost."""

import re
from collections.abc import Mapping
from importlib.metadata import version

from unicuco_plugin.escaping import code_block, code_span, escape_markdown
from unicuco_plugin.modifiers.export.divergence_note import say_format
from unicuco_plugin.strategy import Divergence, Strategy

__all__ = ["write_card"]

# What the hub lets a model be called; anything else could end the line of the front matter.
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_LONGEST_RECIPE = 80
_PACKAGES = ("unicuco-plugin", "llmcompressor", "transformers", "torch")


def write_card(
    base_model: str,
    strategies: tuple[Strategy, ...],
    params: int,
    recipe: str,
    *,
    divergence_note: str = "",
    format: str = "",
    own_code: bool = False,
    served: str = "",
    compensated: str = "",
) -> str:
    """Write the README.md of a checkpoint.

    Args:
        base_model: The dense model's name on the hub, or its folder.
        strategies: What was applied; empty for a recipe without a strategy.
        params: Parameters of the exported checkpoint before any quantisation.
        recipe: The text of ``recipe.yaml``.
        divergence_note: Why the strategies' divergences are not the checkpoint's.
        format: The form of a checkpoint with smaller modules: ``compact``, ``deci``, ``plain`` or ``stock``; or empty.
        own_code: Whether the model comes with code of its own.
        served: What vLLM thinks of it, where it does not load it everywhere.
        compensated: What came of a compensation, in a sentence.

    Returns:
        Markdown with the front matter that the hub reads.
    """
    name = base_model.rstrip("/").rpartition("/")[2] or base_model
    on_hub = _HUB_NAME.fullmatch(base_model) is not None
    front = ["---", "library_name: transformers", *([f"base_model: {base_model}"] if on_hub else [])]
    stored = bool(strategies) and all(strategy.traits.stores for strategy in strategies)
    front += ["tags:", "- quantized" if stored else "- pruned", "- unicuco-plugin", "- llm-compressor", "---"]
    shown = code_span(base_model if on_hub else name)
    lines = [
        *front,
        "",
        f"# {escape_markdown(name)}, {'quantised' if stored else 'pruned'}",
        "",
        f"Base model: {shown}. Parameters: {params:,}.",
        "",
    ]
    for strategy in strategies:
        lines += _describe(strategy, divergence_note, stay=format != "deci")
    if not strategies:
        lines += ["The recipe below was applied, without a strategy.", ""]
    lines += ["## Compensation", "", f"{escape_markdown(compensated)}.", ""] if compensated else []
    lines += ["## Load", "", *([say_format(format), ""] if format else [])]
    lines += [escape_markdown(served), ""] if served else []
    lines += ["```python", "from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    code = ", trust_remote_code=True" if format in ("compact", "deci") or own_code else ""
    lines += [f'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder"{code})']
    code = code if format == "deci" else ""  # whose kind of configuration Transformers does not know
    lines += [f'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder"{code})', "```", ""]
    if format == "deci":
        lines += ["```bash", "vllm serve path/to/this/folder --trust-remote-code", "```", ""]
    lines += ["## Recipe", "", "`llmcompressor.oneshot` reproduces this checkpoint from the base model with:", ""]
    # With a sparsity for every linear a recipe is longer than all the rest.
    short = len(recipe.splitlines()) <= _LONGEST_RECIPE
    lines += [code_block(recipe.strip(), "yaml")] if short else ["`recipe.yaml`, beside this file."]
    lines += ["", "## Versions", "", "| package | version |", "|---|---|"]
    lines += [f"| {package} | {version(package)} |" for package in _PACKAGES]
    return "\n".join(lines) + "\n"


def _describe(strategy: Strategy, divergence_note: str, *, stay: bool) -> list[str]:
    request = ", ".join(f"{kind} = {value}" for kind, value in strategy.request.to_dict().items())
    done, listing = ("zeroed", _list_zeroed) if strategy.traits.zeroes else ("removed", _list_removed)
    if strategy.traits.stores:
        done, listing = "stored in fewer bits" + (" or removed" if strategy.shares else ""), _list_stored
    lines = [f"## What was {done}", ""]
    lines += [f"Request: {request} (space {code_span(strategy.space)}{_say_source(strategy)}).", ""]
    lines += listing(strategy)
    if strategy.silenced and stay:
        lines += [
            f"{len(strategy.silenced)} of these share a block with a half that stays: their output projection is zero, "
            "so that they add nothing, and they save no bytes. Blocks that lost both halves are gone from the files.",
            "",
        ]
    lines += ["## Divergence", "", _explain(strategy.divergence, divergence_note), ""]
    return lines


def _say_source(strategy: Strategy) -> str:
    if strategy.source == "evopress_file":
        return ", from a file written by EvoPress"
    return f", answered by the method {code_span(strategy.peer)}" if strategy.peer else ""


def _list_removed(strategy: Strategy) -> list[str]:
    whole = [unit for unit, share in strategy.shares.items() if share == 1.0]
    partial = {unit: share for unit, share in strategy.shares.items() if share != 1.0}
    lines = [f"{len(whole)} units removed entirely, named as in the base model:", ""] if whole else []
    lines += [f"- {code_span(unit)}" for unit in whole]
    lines += [f"- {code_span(unit)}: {share:.4f} of its weights" for unit, share in partial.items()]
    return [*lines, "", f"Share of prunable weights removed: {strategy.sparsity:.4f}.", ""]


def _list_zeroed(strategy: Strategy) -> list[str]:
    return [
        f"Share of the base model's prunable weights set to zero: {strategy.sparsity:.4f}. The sparsity is "
        "unstructured: zeros lie anywhere in a weight matrix and are stored like any other number, so neither the "
        "files nor the memory get smaller (a later quantisation apart). `unicuco pack` stores such a folder "
        "without its zeros, for transfer. `sparsity.json` has the planned and the achieved zeros of every linear.",
        "",
        "Share of each unit's weights set to zero, named as in the base model:",
        "",
        *_tabulate(strategy.shares),
        "",
    ]


def _list_stored(strategy: Strategy) -> list[str]:
    return [
        f"Mean bits of a weight: {strategy.bits:.4f}, scales counted, of the linears that could be stored in fewer. "
        "What a server packs into one linear has one scheme; what is not listed stays as it was:",
        "",
        *_tabulate(strategy.schemes),
        "",
        *(_list_removed(strategy) if strategy.traits.whole else []),
    ]


def _tabulate(units: Mapping[str, float] | Mapping[str, str]) -> list[str]:
    """A row for each numbered block and a column for each part of it, experts together; other names one by one."""
    matches = {name: re.fullmatch(r"(.+\.\d+)(?:\.(.+))?", name, re.DOTALL) for name in units}
    cells: dict[tuple[str, str], list[float | str]] = {}
    for name, match in matches.items():
        if match:
            part = re.sub(r"(?<=\bexperts\.)\d+", "*", match[2] or "all")
            cells.setdefault((match[1], part), []).append(units[name])
    rows, columns = (list(dict.fromkeys(place[axis] for place in cells)) for axis in (0, 1))
    lines = [f"- {code_span(name)}: {_say_range([units[name]])}" for name, match in matches.items() if not match]
    if cells:
        lines += [
            *([""] if lines else []),
            f"| block | {' | '.join(map(escape_markdown, columns))} |",
            "|---|" + "---|" * len(columns),
        ]
    for row in rows:
        shown = (_say_range(cells.get((row, column), [])) for column in columns)
        lines.append(f"| {code_span(row, table=True)} | {' | '.join(shown)} |")
    return lines


def _say_range(values: list[float | str]) -> str:
    shares = [value for value in values if not isinstance(value, str)]
    ends = [f"{share:.4f}" for share in (min(shares), max(shares))] if shares else []
    return " to ".join(dict.fromkeys([*ends, *(code_span(value) for value in values if isinstance(value, str))]))


def _explain(divergence: Divergence | None, divergence_note: str) -> str:
    if divergence is None:
        return "Not measured: the source of this strategy gives no divergence. `unicuco evaluate` measures it."
    low, high = divergence.interval90
    value = f"{divergence.mean:.4f} nats per token, 90 % interval {low:.4f} to {high:.4f}"
    if divergence.carried_over:
        how = "carried over: found on other weights of the same structure, not measured on these"
    elif divergence.measured:
        how = "measured on held-out calibration windows"
    else:
        how = "predicted, not measured"
    beside = f" This is the profile's value, {escape_markdown(divergence_note)}." if divergence_note else ""
    return f"Mean KL(dense‖pruned): {value} ({how}).{beside}"
