"""Options that commands share."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path, typer.Option(envvar="PROTOMESH_DATA", show_default=".mesh", help="Data folder of the mesh.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON, for other programs.")]
