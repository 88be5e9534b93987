"""vLLM asked for times, in a process and an environment of its own."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from pydantic import Field, ValidationError

from unicuco_plugin.costs.timings import Count, Device, Name
from unicuco_plugin.errors import DeviceTableError, clip, explain, quoted
from unicuco_plugin.frozen import Frozen
from unicuco_plugin.quantities import Milliseconds
from unicuco_plugin.timing.running import STEPS

__all__ = ["Times", "VllmEngine"]

_SCRIPT = Path(__file__).with_name("in_vllm.py")
# One process, whatever else is wished for: no clock of another one is asked.
_FORCED, _QUIET = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}, {"VLLM_LOGGING_LEVEL": "ERROR"}
# Characters at the end of what vLLM writes, among which its error is.
_TAIL = 20_000


class Times(Frozen):
    """Milliseconds of one load."""

    batch: Count
    context: Count
    decode: Milliseconds
    prefill: Milliseconds


class _Place(Frozen):
    name: Name
    kind: Name
    threads: Count
    versions: dict[Name, Name]


class _Answer(Frozen):
    device: _Place
    times: tuple[Times, ...] = Field(max_length=10**4)


@dataclass(frozen=True)
class VllmEngine:
    """vLLM's own environment, where it runs models for their times.

    Attributes:
        python: Its Python.
        eager: Whether kernels run one by one; else as vLLM does unless told otherwise, which starts more slowly.
    """

    python: str
    eager: bool = False

    @classmethod
    def find(cls, python: str | Path | None, *, eager: bool = False) -> "VllmEngine":
        """Take the Python that was given, or this one where it has vLLM.

        Raises:
            DeviceTableError: If neither is.
        """
        if python is None and find_spec("vllm") is None:
            raise DeviceTableError(
                "engine vllm must be told the Python of vLLM's own environment, got none: --vllm-python FILE"
            )
        # An environment is known by where its Python lies: links are not followed.
        where = sys.executable if python is None else os.path.abspath(Path(python).expanduser())  # noqa: PTH100
        if not os.access(where, os.X_OK) or Path(where).is_dir():
            raise DeviceTableError(f"vllm-python must be a Python that can be started, got {quoted(str(python))}")
        return cls(where, eager)

    def describe(self, dtype: str) -> Device:
        """Say where and how it runs models of a dtype.

        Raises:
            DeviceTableError: If vLLM cannot be imported there.
        """
        return self._device(self._ask({"model": None}).device, dtype)

    def time(
        self,
        model: str | Path,
        dtype: str,
        loads: Sequence[tuple[int, int]],
        *,
        repeats: int,
        dummy: bool = False,
        revision: str | None = None,
        own_code: bool = False,
    ) -> tuple[Device, tuple[Times, ...]]:
        """Time a model under loads.

        Args:
            model: A folder, or a name on the hub.
            dtype: Of its weights.
            loads: Sequences, and tokens of each.
            repeats: Runs of each; medians count.
            dummy: Whether a configuration is all there is.
            revision: A branch, tag or commit on the hub.
            own_code: Whether code in the folder may run.

        Raises:
            DeviceTableError: If vLLM cannot load or run it; its own words are in the message.
        """
        answer = self._ask(
            {
                "model": str(Path(model).resolve()) if Path(model).exists() else str(model),
                "revision": revision,
                "dtype": dtype,
                "trust_remote_code": own_code,
                "dummy": dummy,
                "eager": self.eager,
                "loads": list(loads),
                "steps": STEPS,
                "repeats": repeats,
            }
        )
        if [(one.batch, one.context) for one in answer.times] != list(loads):
            raise DeviceTableError(f"vLLM at {self.python} answered for other loads than those asked")
        return self._device(answer.device, dtype), answer.times

    def _device(self, place: _Place, dtype: str) -> Device:
        return Device(**place.model_dump(), dtype=dtype.removeprefix("torch."), engine="vllm", eager=self.eager)

    def _ask(self, job: Mapping[str, Any]) -> _Answer:
        text = _SCRIPT.read_text(encoding="utf8")
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / "answer.json"
            # Not as a file: the folder it lies in has modules of other names that people know.
            command = [self.python, "-c", text, str(written)]
            with (Path(folder) / "log").open("w+", encoding="utf8", errors="replace") as log:
                code = self._run(command, job, log, folder)
                log.seek(0)
                said = log.read()[-_TAIL:]
            if code or not written.exists():
                raise DeviceTableError(f"vLLM at {self.python} failed: {clip(_reason(said, code), 200)}")
            try:
                return _Answer.model_validate_json(written.read_bytes())
            except ValidationError as error:
                raise DeviceTableError(f"vLLM at {self.python} gave no times: {explain(error)}") from error

    @staticmethod
    def _run(command: Sequence[str], job: Mapping[str, Any], log: IO[str], folder: str) -> int:
        """Wait for the process, which ends with us: its standard input is then closed."""
        with subprocess.Popen(  # noqa: S603 - our script, by the Python that the user names
            command,
            stdin=subprocess.PIPE,
            text=True,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**_QUIET, **os.environ, **_FORCED},
        ) as process:
            try:
                if process.stdin is not None:
                    with suppress(BrokenPipeError):  # it is over already, and the log says why
                        process.stdin.write(json.dumps(job) + "\n")
                        process.stdin.flush()
                return process.wait()
            except BaseException:
                process.kill()
                raise


def _reason(said: str, code: int) -> str:
    """The line of a log that says what went wrong."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [place for place, line in enumerate(lines) if "Error" in line.split(":")[0]]
    if not errors:
        return lines[-1] if lines else f"it ended with status {code}"
    # Pydantic says on the next line, or the one after the field's, what was wrong.
    told = lines[errors[-1] :][: 3 if "validation error" in lines[errors[-1]] else 1]
    return told[0] if len(told) == 1 else " ".join(told[1:])
