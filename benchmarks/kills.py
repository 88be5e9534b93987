r"""Kills every command that writes, goes on, and compares; then runs two of each on one output at the same time.

    python benchmarks/kills.py --output benchmarks/results/kills.json
    python benchmarks/kills.py --only pack "train --overwrite" --every

On a tiny random model. A command is run unbroken, then killed ``--kills`` times in a fresh folder each: one half at a
call by which it changes files (see ``kill_launcher.py``), one half at a moment in the second half of its run, both
drawn with ``--seed``; with ``--every`` at each of those calls. After a kill, what was there before must be there
(files of the user; an older output whole, or the new one in its place). Then the command is run again, with
``--resume`` where it has that: the output must equal the unbroken one (``kill_digests.py`` says what is compared) and
nothing may be left beside it, in the working folder or among temporary files. Two processes on one output must both
end, with exit code 0 or 1 and one line that says why, and leave the same output. Exits 1 if anything is wrong.

``evaluate``, ``strategy``, ``plugins`` and ``levels show`` write nothing. ``demo`` writes as ``prune`` does, through
the same function, and needs SmolLM2. Half an hour on two busy cores, less on idle ones.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common import write_result
from kill_commands import COMMANDS, calls_for, make_inputs
from kill_digests import files_of
from kill_launcher import Ended, start, warm_up
from kill_trial import Trial

_TRIES = 10  # at a moment before a command's end


def main() -> None:
    """Run every command's kills."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(COMMANDS), default=list(COMMANDS), metavar="COMMAND")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--every", action="store_true", help="kill at every call instead")
    parser.add_argument("--pairs", type=int, default=3, help="how often two processes are started")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        root = Path(name).resolve()
        inputs = _make(root, args.only)
        before = files_of(inputs)
        found = {}
        for command in args.only:
            found[command] = _try(command, root, inputs, args)
            print(_sum_up(command, found[command]), flush=True)
        wrong = [f"{name}: {line}" for name, row in found.items() for line in row["wrong"]]
        if files_of(inputs) != before:
            wrong.append("inputs were changed")
    if args.output is not None:
        write_result(args.output, {"wrong": wrong, "commands": found})
    sys.exit(1 if wrong else 0)


def _make(root: Path, commands: Sequence[str]) -> Path:
    """Import what commands import, and make their inputs in children."""
    warm_up()
    inputs = root / "inputs"
    jobs: list[Sequence[str] | Callable[[], None]] = [partial(make_inputs, inputs), *calls_for(commands, inputs)]
    for job in jobs:
        _must(start(job, root / "making", root / "making-logs").wait())
    return inputs


def _must(ended: Ended) -> Ended:
    if ended.status:
        sys.exit(f"an unbroken run failed: {ended.status} {' '.join(ended.errors)}")
    return ended


def _try(name: str, root: Path, inputs: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run a command unbroken, killed, and twice at once."""
    command, chance = COMMANDS[name], random.Random(f"{args.seed} {name}")  # noqa: S311
    folder = root / "".join(letter if letter.isalnum() else "-" for letter in name)
    older = None
    if command.older is not None:
        made = Trial(command, folder / "older", inputs, foreign=False)
        _must(made.run(command.older))
        older = made.output
    trials: list[Trial] = []

    def new(label: str) -> Trial:
        trials.append(Trial(command, folder / f"{len(trials)}-{label}", inputs, older))
        return trials[-1]

    whole = new("whole")
    ended = _must(whole.run(command.call))
    whole.check_alone()
    seconds, calls = ended.seconds, len(ended.calls)
    numbers = list(range(calls)) if args.every else _draw(chance, calls, -(-args.kills // 2))
    moments = 0 if args.every else args.kills - len(numbers)
    if moments:  # the first run of all may have been slower
        again = new("again")
        seconds = min(seconds, _must(again.run(command.call)).seconds)
        _compare(again, whole)
    kills = [_kill_at(number, calls, new(f"call-{number}"), whole) for number in numbers]
    kills += [_kill_after(chance, seconds, new, whole) for _ in range(moments)]
    both = [_run_both(new("pair"), whole) for _ in range(args.pairs)]
    shutil.rmtree(folder)
    wrong = [f"{trial.place.name}: {line}" for trial in trials for line in trial.wrong]
    return {"seconds": seconds, "calls": calls, "kills": kills, "two_processes": both, "wrong": wrong}


def _draw(chance: random.Random, calls: int, count: int) -> list[int]:
    """Numbers of calls, each once as long as there are enough."""
    return sorted(chance.sample(range(calls), min(count, calls)))


def _kill_at(number: int, calls: int, trial: Trial, whole: Trial) -> dict[str, Any]:
    ended = trial.run(trial.command.call, kill_at=number)
    if ended.status != -signal.SIGKILL:
        trial.wrong.append(f"was not killed at call {number}, got {ended.status}")
    return {"at": f"call {number + 1} of {calls}: {ended.calls[-1]}", **_after(trial, whole)}


def _kill_after(chance: random.Random, seconds: float, new: Callable[[str], Trial], whole: Trial) -> dict[str, Any]:
    for _ in range(_TRIES):
        trial, moment = new("moment"), chance.uniform(0.5, 1.0) * seconds
        ended = trial.run(trial.command.call, kill_after=moment)
        if ended.status == -signal.SIGKILL:
            break
        seconds = min(seconds, ended.seconds)  # the machine is less busy by now
    else:
        trial.wrong.append(f"was not killed at any of {_TRIES} moments")
    return {"at": f"{moment:.3f} s, {len(ended.calls)} calls", **_after(trial, whole)}


def _after(trial: Trial, whole: Trial) -> dict[str, Any]:
    """What is there after a kill, and after the next run."""
    trial.check_mine()
    place = trial.look_at_older(whole)
    codes = trial.go_on()
    return {**({"in_place": place} if place else {}), "next_runs": codes, **_compare(trial, whole)}


def _compare(trial: Trial, whole: Trial) -> dict[str, Any]:
    """Whether the output is an unbroken run's, and what lies around it beside what that left."""
    return {"equal": trial.check_output(whole), "left_behind": trial.check_around(whole)}


def _run_both(trial: Trial, whole: Trial) -> dict[str, Any]:
    found = trial.run_twice()
    for ended in found:
        one = ended.status == 0 or (
            ended.status == 1 and len(ended.errors) == 1 and ended.errors[0].startswith("error: ")
        )
        if not one:
            trial.wrong.append(f"two processes: {ended.status} {' '.join(ended.errors)}")
    said = [line.replace(str(trial.place), "…") for ended in found for line in ended.errors]
    return {"exit_codes": [ended.status for ended in found], "said": said, **_compare(trial, whole)}


def _sum_up(name: str, row: dict[str, Any]) -> str:
    equal = sum(kill["equal"] for kill in row["kills"])
    codes = [pair["exit_codes"] for pair in row["two_processes"]]
    said = f"{name}: {row['seconds']} s, {row['calls']} calls; {equal} of {len(row['kills'])} kills equal; {codes}"
    return "\n  ".join([said, *row["wrong"]])


if __name__ == "__main__":
    main()
