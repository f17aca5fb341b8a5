"""`python -m meshctl.gen` generates; with `--check` it only says what is out of date."""

import argparse
import sys
import tempfile
from pathlib import Path

from meshctl.gen import files, protoc

ROOT = Path(__file__).resolve().parents[2]
# Directories that the generator owns wholly: what it does not write there, it removes.
OWNED = ["gen/python", "gen/descriptors"]


def generate(root: Path, fresh: Path) -> None:
    """Writes all that is derived from `root`/proto below `fresh`, laid out as in the repository."""
    protoc.compile_contracts(root / "proto", fresh / "gen/python", fresh / "gen/descriptors/protomesh.binpb")


def main() -> int:
    parser = argparse.ArgumentParser(prog="meshctl gen", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when generated files are out of date")
    check: bool = parser.parse_args().check
    act = files.drift if check else files.publish
    with files.exclusive(ROOT / ".mesh/gen.lock"), tempfile.TemporaryDirectory(dir=ROOT / ".mesh") as staging:
        try:
            generate(ROOT, Path(staging))
        except protoc.ContractError as error:
            print(f"The contracts do not compile:\n{error}", file=sys.stderr)
            return 1
        changed = [f"{owned}/{name}" for owned in OWNED for name in act(Path(staging, owned), ROOT / owned)]
    for name in changed:
        print(f"{'out of date' if check else 'wrote'}: {name}")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
