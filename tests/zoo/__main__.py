"""Measures the zoo and writes its table: ``PYTHONPATH=src:tests python -m zoo --into FOLDER``.

Every configuration that FOLDER has no file of is taken through every space; several processes may share it, each with
a shard of its own. Once all are there, ``tests/zoo/outcomes.json`` and ``docs/families.md`` are written.
"""

import argparse
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path

from zoo.cells import SPACES, Cage, Reader, quietly
from zoo.families import ANIMALS
from zoo.shards import read_shard, shard
from zoo.table import DOCUMENT, OUTCOMES, replace_table, write_outcomes


def main() -> int:
    """Returns how many cells are wrong."""
    parser = argparse.ArgumentParser(prog="python -m zoo", description=__doc__)
    parser.add_argument("--into", type=Path, required=True, help="folder for one file a configuration; it is resumed")
    parser.add_argument("--shard", type=read_shard, default=(0, 1), metavar="K/N", help="the K-th of N parts, from 1")
    parser.add_argument("--only", nargs="+", choices=sorted(ANIMALS), default=sorted(ANIMALS), metavar="NAME")
    parser.add_argument("--spaces", nargs="+", choices=SPACES, default=SPACES)
    asked = parser.parse_args()
    asked.into.mkdir(parents=True, exist_ok=True)
    wrong = 0
    with quietly(), Reader() as reader:
        for name in shard(asked.only, asked.shard):
            file = asked.into / f"{name}.json"
            known = json.loads(file.read_text(encoding="utf8")) if file.exists() else {}
            left = [space for space in asked.spaces if space not in known]
            with tempfile.TemporaryDirectory() as home:
                cage = Cage(name, Path(home), reader) if left else None
                for space in left:
                    began = time.perf_counter()
                    known[space] = cage.outcome(space)
                    print(f"{name:30} {space:11} {time.perf_counter() - began:5.1f} s  {known[space]}", flush=True)
                    file.write_text(json.dumps(known), encoding="utf8")
            wrong += sum(outcome.startswith("wrong") for outcome in known.values())
    files = {name: asked.into / f"{name}.json" for name in ANIMALS if (asked.into / f"{name}.json").exists()}
    found = {name: json.loads(file.read_text(encoding="utf8")) for name, file in files.items()}
    missing = [name for name in ANIMALS if found.get(name, {}).keys() != set(SPACES)]
    if missing:
        print(f"{len(missing)} configurations are still to be measured, such as {missing[0]}")
    else:
        write_outcomes(found)
        DOCUMENT.write_text(replace_table(DOCUMENT.read_text(encoding="utf8"), found), encoding="utf8")
        print(f"written: {OUTCOMES}, {DOCUMENT}")
    return min(wrong, 100)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
