"""`meshctl migrate`: databases, roles, and all services' migrations."""

import os
from typing import Annotated

import typer

from meshctl.core import deployables
from meshctl.core.arguments import Data
from meshctl.core.folder import DEFAULT_FOLDER, MeshFolder
from meshctl.databases import provisioning


def migrate(
    data: Data = DEFAULT_FOLDER,
    postgres_url: Annotated[
        str, typer.Option(envvar="PROTOMESH_POSTGRES_URL", help="URL of a role that may create databases.")
    ] = "",
    alone: Annotated[
        bool,
        typer.Option(
            "--alone",
            envvar="PROTOMESH_POSTGRES_ALONE",
            help="The PostgreSQL serves this mesh only: its roles may connect to no database but their own.",
        ),
    ] = False,
) -> None:
    """Create and migrate all databases.

    Each service gets a database and a role, and each database its newest revision. The passwords are those of the data
    folder, or PROTOMESH_DATABASE_PASSWORD for all roles.
    """
    shared = os.environ.get("PROTOMESH_DATABASE_PASSWORD")
    folder = MeshFolder(data.resolve())
    secrets = folder.secrets()
    passwords = {name: shared or secrets.get(f"database.{name}") for name in deployables.with_database()}
    provisioning.create(postgres_url, passwords, folder.mesh_id, alone=alone)
    provisioning.migrate(postgres_url, passwords)
