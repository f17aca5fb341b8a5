"""`meshctl certificates`: the certificates of all workloads, where there is no supervisor."""

from pathlib import Path
from typing import Annotated

import typer

from meshctl.core import deployables
from meshctl.pki import certificates


def issue_certificates(folder: Annotated[Path, typer.Argument(help="Folder for the files.")]) -> None:
    """Issue or renew all certificates.

    Only those that are missing or due are issued, and none for `operator`.
    """
    # Containers share the folder, and none of them may become an administrator.
    workloads = [name for name in deployables.workloads() if name != "operator"]
    for name in certificates.issue(folder, workloads):
        print(f"{name}: issued")
