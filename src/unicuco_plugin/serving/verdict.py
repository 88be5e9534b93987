"""The whole check: a checkpoint, or its configuration, against every rule."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unicuco_plugin.errors import CheckpointError, ExportError
from unicuco_plugin.files.received import check_tensors
from unicuco_plugin.models.checkpoints.checkpoint import read_tensors
from unicuco_plugin.models.parts.modeling_compact import FILE
from unicuco_plugin.models.sketch import sketch_from_fields
from unicuco_plugin.serving.config_rules import CONFIG_RULES, raw_findings, readable
from unicuco_plugin.serving.finding import Finding, name_some
from unicuco_plugin.serving.kernels import Device, Problem, find_kernel
from unicuco_plugin.serving.layers import Unit, model_units
from unicuco_plugin.serving.layout import Layout
from unicuco_plugin.serving.quantization import Quantization, parse_quantization
from unicuco_plugin.serving.schemes import find_scheme, scheme_name
from unicuco_plugin.serving.source import Source, read_source
from unicuco_plugin.serving.target_rules import TARGET_RULES
from unicuco_plugin.serving.tensor_rules import tensor_findings
from unicuco_plugin.serving.unit_rules import UNIT_RULES

__all__ = ["BOTH", "Row", "Verdict", "check_serving"]

BOTH = (Device("cuda"), Device("cpu"))
_PLAIN = "16 bits"


@dataclass(frozen=True)
class Row:
    """Linears that are stored and multiplied alike.

    Attributes:
        scheme: How they are stored, as ``W4A16:g64``.
        linears: How many.
        kernels: The kernel of each device that was asked for, in their order; empty where it has none, None where it is
            not asked for one: 16 bits, and linears that are refused with their unit.
    """

    scheme: str
    linears: int
    kernels: tuple[str | None, ...]


@dataclass(frozen=True)
class Verdict:
    """What became of a check.

    Attributes:
        quantised: Whether there is a ``quantization_config``.
        findings: What is wrong, errors first.
        rows: A table of schemes; without a model they count no linears.
        devices: What was asked for.
        files: Whether weight files were looked at.
        model: Whether the model's linears are known, so that the rules of units were asked.
    """

    quantised: bool
    findings: tuple[Finding, ...] = ()
    rows: tuple[Row, ...] = ()
    devices: tuple[Device, ...] = ()
    files: bool = False
    model: bool = False

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Those for which the server does not load it, or loads another model."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def loads(self) -> bool:
        """Whether nothing stands against it."""
        return not self.errors


def check_serving(path: str | Path, devices: Sequence[Device] = BOTH, *, chosen: bool = False) -> Verdict:
    """Say whether vLLM 0.32 loads a checkpoint of compressed-tensors, and with which kernels.

    Nothing of it is run and no tensor is read: its configuration, the model that it builds without weights, and the
    headers of its weight files, where there are some.

    Args:
        path: A folder, its config.json, or a ``quantization_config`` alone in a JSON file.
        devices: Whose kernels are looked up.
        chosen: Whether all of these devices must have them; one is enough otherwise.

    Raises:
        CheckpointError: If there is nothing to check: no such file, no JSON, another format or method.
    """
    source = read_source(Path(path))
    asked = tuple(devices)
    if source.quantization is None:
        return Verdict(quantised=False, devices=asked)
    findings = list(raw_findings(source.quantization))
    quantization = parse_quantization(readable(source.quantization))
    findings += [finding for rule in CONFIG_RULES for finding in rule(quantization)]
    units, problems = _find_units(source)
    findings += problems
    layout = Layout(quantization, units or ())
    files = False
    if units is not None:
        findings += [finding for rule in UNIT_RULES + TARGET_RULES for finding in rule(layout)]
        tensors = {} if source.folder is None else _read_headers(source.folder)
        files = bool(tensors)
        if files:
            # The headers say how widths were packed, whatever the version says.
            findings = [finding for finding in findings if finding.rule != "packing"]
            findings += tensor_findings(layout, tensors)
    half = (source.config or {}).get("dtype", (source.config or {}).get("torch_dtype")) == "float16"
    rows = _tabulate(layout, asked, half=half) if units is not None else _tabulate_groups(quantization, asked)
    findings += _kernel_findings(rows, asked, chosen=chosen)
    findings = sorted(_joined(findings), key=lambda finding: finding.severity)
    return Verdict(True, tuple(findings), rows, asked, files, units is not None)


def _find_units(source: Source) -> tuple[tuple[Unit, ...] | None, list[Finding]]:
    if source.config is None:
        return None, []
    code = source.config.get("auto_map")
    if isinstance(code, dict) and any(Path(FILE).stem in str(place) for place in code.values()):
        return None, [
            Finding(
                "architecture", "auto_map",
                "names the code of unicuco's compact form, blocks of several sizes, which vLLM has no class for: prune "
                "with --format stock, or take the space depth",
            )
        ]  # fmt: skip
    try:
        return model_units(sketch_from_fields(source.config)), []
    except Exception as error:  # ours, or whatever a family makes of sizes that its own class never had
        return None, [
            Finding("model", "config.json", f"only the configuration was checked: {error}", "warning", "note")
        ]


def _read_headers(folder: Path) -> dict[str, Any]:
    if not any(folder.glob("*.safetensors")):
        return {}
    try:
        for path in folder.glob("*.safetensors"):
            check_tensors(path)
        return read_tensors(folder)
    except ExportError as error:
        raise CheckpointError(str(error)) from error
    except (OSError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: a weight file's header cannot be read: {error}") from error


def _tabulate(layout: Layout, devices: tuple[Device, ...], *, half: bool) -> tuple[Row, ...]:
    counts: Counter[tuple[str, tuple[str | None, ...]]] = Counter()
    nowhere = (None,) * len(devices)
    for unit in layout.units:
        group = layout.group(unit)
        for linear in unit.linears:
            own = layout.matcher.group(layout.written[linear.name])
            if own is None or own.weights is None:
                counts[_PLAIN, nowhere] += 1
                continue
            scheme = find_scheme(own, layout.quantization.format_of(own))
            rows = sum(other.rows for other in unit.linears) if unit.kind != "experts" else linear.rows
            problem = Problem(rows, linear.columns, unit.kind == "experts", half)
            if scheme is None or group is None:
                counts[scheme_name(own), nowhere] += 1
                continue
            kernels = tuple(find_kernel(scheme, own, problem, device) for device in devices)
            counts[scheme_name(own), kernels] += 1
    return tuple(Row(scheme, count, kernels) for (scheme, kernels), count in counts.items())


def _tabulate_groups(quantization: Quantization, devices: tuple[Device, ...]) -> tuple[Row, ...]:
    """The same where no linear is known: as if sizes were round."""
    rows = []
    for group in quantization.config_groups.values():
        scheme = find_scheme(group, quantization.format_of(group))
        kernels = [find_kernel(scheme, group, Problem(4096, 4096), device) if scheme else None for device in devices]
        rows.append(Row(scheme_name(group), 0, tuple(kernels)))
    return tuple(rows)


def _kernel_findings(rows: tuple[Row, ...], devices: tuple[Device, ...], *, chosen: bool) -> Iterator[Finding]:
    """Devices that lack a kernel: an error where the device was chosen, or where none has all of them."""
    lacking: dict[Device, list[str]] = {}
    for row in rows:
        for device, kernel in zip(devices, row.kernels, strict=True):
            if kernel == "":
                lacking.setdefault(device, []).append(row.scheme)
    everywhere = len(lacking) == len(devices)
    for device, schemes in lacking.items():
        error = chosen or everywhere
        yield Finding(
            "kernel", device.label,
            f"vLLM has no kernel for {name_some(list(dict.fromkeys(schemes)))} there: serve it elsewhere, or take "
            f"{'W4A16 or W8A8, in sizes that are multiples of 32' if device.kind == 'cpu' else 'W4A16 or W8A8'}",
            "error" if error else "warning", "refused" if error else "note",
        )  # fmt: skip


def _joined(findings: list[Finding]) -> Iterator[Finding]:
    """One finding for all units of which a rule says the same: a model has hundreds."""
    alike: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        alike.setdefault((finding.rule, finding.message, finding.outcome), []).append(finding)
    for (rule, message, _), group in alike.items():
        first = group[0]
        where = name_some([finding.where for finding in group])
        yield Finding(rule, where, message, first.severity, first.outcome)
