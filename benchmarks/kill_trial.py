"""One folder in which a command is run, killed, and run again; and everything that must hold of it."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from kill_commands import Command
from kill_digests import Digest, files_of
from kill_launcher import Child, Ended, start

__all__ = ["Trial"]

_LONGEST = 300.0  # seconds, of a command that takes a few
# Files of the user beside the output, some of them with names like those of leftovers.
_FOREIGN = ("notes.txt", ".{}.unfinished-mine/notes.txt", ".{}.old-mine/notes.txt", ".{}.unicuco-draft-mine")
# What an output may hold with a dot before its name.
_HIDDEN = {".lock", ".unicuco-files.json"}


@dataclass
class Trial:
    """A folder for one command: the output lies in ``beside``, among files of the user.

    Attributes:
        command: The command.
        place: The folder, to be made.
        inputs: What is read.
        older: What the output is at first, if anything.
        foreign: Whether there are files of the user.
        wrong: What went wrong.
    """

    command: Command
    place: Path
    inputs: Path
    older: Path | None = None
    foreign: bool = True
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.output = self.place / "beside" / self.command.output
        self.output.parent.mkdir(parents=True)
        if self.older is not None and self.older.is_dir():
            shutil.copytree(self.older, self.output)
        elif self.older is not None:
            shutil.copy2(self.older, self.output)
        names = [name.format(self.command.output) for name in _FOREIGN] if self.foreign else []
        names += [f"{self.command.output}/notes.txt"] if self.foreign and self.command.inside else []
        self.mine = [self.output.parent / name for name in names]
        for path in self.mine:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("mine", encoding="utf8")

    def start(self, call: tuple[str, ...], number: int = 0, kill_at: int | None = None) -> Child:
        """Start one call; ``number`` tells those that run at the same time apart."""
        arguments = [part.format(inputs=self.inputs, output=self.output) for part in call]
        logs = self.place.parent / f"{self.place.name}-logs-{number}"
        return start(arguments, self.place, logs, kill_at=kill_at, exchange=self.command.exchange)

    def run(self, call: tuple[str, ...], *, kill_at: int | None = None, kill_after: float = _LONGEST) -> Ended:
        """Run one call, or kill it."""
        return self.start(call, kill_at=kill_at).wait(kill_after)

    def run_twice(self) -> list[Ended]:
        """Run the command in two processes at once."""
        return [child.wait(_LONGEST) for child in [self.start(self.command.call, number) for number in range(2)]]

    def go_on(self) -> list[int]:
        """Run the command again as its user would, until it is done; returns the exit codes."""
        call = self.command.again or self.command.call
        ended = self.run(call)
        said = " ".join(ended.errors)
        codes = [ended.status]
        if ended.status and call != self.command.call and "belongs to other arguments" in said:
            ended = self.run(self.command.call)  # it was killed before the older one went
            said = " ".join(ended.errors)
            codes.append(ended.status)
        # Without --overwrite or --resume a command that was done before the kill says so.
        if ended.status and not (call == self.command.call and self.older is None and "already exists" in said):
            self.wrong.append(f"does not go on: {ended.status} {said}")
        return codes

    def check_alone(self) -> None:
        """Look for anything that an unbroken run left beside its output, or hidden in it."""
        self.check_mine()
        expected = {self.place / name for name in ("beside", "cwd", "tmp")}
        expected |= {*self.mine, *(path.parent for path in self.mine)}
        self.wrong += [f"left behind: {path}" for path in self._around() if self.place / path not in expected]
        inside = [path for path in self.output.rglob(".*") if path.name not in _HIDDEN]
        self.wrong += [f"left behind: {path.relative_to(self.place)}" for path in inside]

    def check_mine(self) -> None:
        """Hold the user's files against what they were."""
        for path in self.mine:
            if not path.is_file() or path.read_text(encoding="utf8") != "mine":
                self.wrong.append(f"{path.relative_to(self.place)} of the user is gone or changed")

    def check_output(self, whole: "Trial") -> bool:
        """Hold the output against an unbroken run's; returns whether they are equal."""
        mine, theirs = (trial.command.digest(trial.output) for trial in (self, whole))
        for name in sorted(mine.keys() | theirs.keys()):
            if mine.get(name) != theirs.get(name):
                kind = "differs" if name in mine and name in theirs else "more" if name in mine else "missing"
                self.wrong.append(f"output: {kind}: {name or self.command.output}")
        return mine == theirs

    def check_around(self, whole: "Trial") -> list[str]:
        """Return what lies around the output that an unbroken run does not leave there."""
        self.check_mine()
        left = sorted(self._around().keys() - whole._around().keys())
        self.wrong += [f"left behind: {name}" for name in left]
        return left

    def look_at_older(self, whole: "Trial") -> str:
        """Which output is in its place after a kill: ``old``, ``new``, or one that had to be brought back."""
        if self.older is None or not self.command.kept:
            return ""
        old = self.command.digest(self.older)
        for name, wanted in (("old", old), ("new", self.command.digest(whole.output))):
            if self._holds(wanted):
                return name
        if not self.command.exchange and not self.output.exists():
            self.run(tuple(part for part in self.command.call if part != "--overwrite"))
            if self._holds(old):
                return "old, brought back"
        self.wrong.append("after the kill neither the old nor the new output is whole")
        return "none"

    def _around(self) -> Digest:
        """Everything in the folder but the output."""
        name = self.output.relative_to(self.place).as_posix()
        found = files_of(self.place)
        return {path: kind for path, kind in found.items() if path != name and not path.startswith(f"{name}/")}

    def _holds(self, wanted: Digest) -> bool:
        """Whether the output has these files, of those that an older one keeps until it is replaced."""
        digest, kept = self.command.digest, self.command.kept
        return all(
            digest(self.output / name).get("") == value
            for name, value in wanted.items()
            if value != "folder" and name.endswith(kept)
        )
