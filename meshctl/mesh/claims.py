"""A mark on a NATS and a Valkey that a URL names, so that two meshes never use the same one by mistake.

The names of streams and keys are the same in every mesh, so two of them on one server would read each other's events.
PostgreSQL is marked where its roles are made, in meshctl/databases/provisioning.py.
"""

import nats
import nats.errors
import nats.js.errors
from nats.js import JetStreamContext

from chassis.contract import DEAD_LETTERS, all_event_types
from chassis.core import Unavailable
from chassis.outside import Valkey
from meshctl.core.failure import OperatorError

STREAM, SUBJECT, KEY = "PROTOMESH", "protomesh.mesh", "protomesh:mesh"
SECONDS = 5.0


async def claim_nats(url: str, mesh_id: str) -> None:
    """Marks the NATS of the URL with the id: an empty stream has it as its description.

    Raises OperatorError when it has the mark of another mesh, or streams with our names and no mark.
    """
    try:
        client = await nats.connect(
            url.split(","), connect_timeout=int(SECONDS), allow_reconnect=False, error_cb=_ignore
        )
        try:
            await _claim_streams(client.jetstream(), mesh_id)
        finally:
            await client.close()
    except (nats.errors.Error, nats.js.errors.Error) as failure:
        raise OperatorError(f"NATS cannot be used: {str(failure) or type(failure).__name__}") from None


async def _claim_streams(jetstream: JetStreamContext, mesh_id: str) -> None:
    known = {info.config.name: info.config.description for info in await jetstream.streams_info()}
    ours = {kind.stream for kind in all_event_types().values()} | {DEAD_LETTERS}
    if STREAM not in known:
        if taken := sorted(ours & known.keys()):
            raise OperatorError(
                f"NATS has a stream {taken[0]} that this mesh did not make: use another NATS."
            )
        await jetstream.add_stream(name=STREAM, subjects=[SUBJECT], description=mesh_id)
    elif known[STREAM] != mesh_id:
        raise _taken("NATS")


async def claim_valkey(url: str, mesh_id: str) -> None:
    """Marks the Valkey of the URL with the id. Raises OperatorError when it has the mark of another mesh."""
    valkey = Valkey(url, timeout=SECONDS)
    try:
        _, found = await valkey.run(("SET", KEY, mesh_id, "NX"), ("GET", KEY))
    except Unavailable as failure:
        raise OperatorError(f"Valkey cannot be used: {failure.__cause__}") from None
    finally:
        await valkey.close()
    if found != mesh_id.encode():
        raise _taken("Valkey")


def _taken(server: str) -> OperatorError:
    return OperatorError(
        f"This {server} serves another mesh: use another one, or the data folder (or the PROTOMESH_MESH_ID) of that "
        "mesh."
    )


async def _ignore(_: Exception) -> None:
    """The error is raised besides."""
