"""Code that nothing was calibrated on: the modules of this interpreter's standard library as one text file.

    python benchmarks/code_text.py --output runs/code.txt

Modules come in alphabetical order, whole packages and tests left out; blank lines inside a module are dropped, so that
each module is one document. Prints the interpreter's version and the text's SHA-256, which results that use it name.
"""

import argparse
import hashlib
import platform
import sysconfig
from pathlib import Path

CHARACTERS = 3_000_000


def main() -> None:
    """Write the text and say what it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--characters", type=int, default=CHARACTERS, help="about so many, whole modules")
    args = parser.parse_args()
    documents: list[str] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        lines = path.read_text(encoding="utf8", errors="ignore").splitlines()
        documents.append("\n".join(line for line in lines if line.strip()))
        if sum(map(len, documents)) > args.characters:
            break
    text = "\n\n".join(documents) + "\n"
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(text, encoding="utf8")
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    print(f"Python {platform.python_version()}: {len(documents)} modules, {len(text):,} characters, SHA-256 {digest}")


if __name__ == "__main__":
    main()
