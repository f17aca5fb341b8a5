"""A service that was made from nothing, with what was added to it: over the SDK, and its events in another service."""

import asyncio

from protomesh.notes.v1.note_service_pb2 import ArchiveNoteRequest, CreateNoteRequest, ListNotesRequest

from protomesh_sdk import Mesh as Client
from protomesh_sdk import rows
from tests.mesh import Mesh
from tests.patience import eventually


async def test_the_sdk_calls_what_was_made(mesh: Mesh):
    user = await mesh.sign_up()

    def consume() -> list[str]:
        with Client(mesh.edge_url) as client:
            client.login(user.email, user.password)
            note = client.notes.CreateNote(CreateNoteRequest(name="From the SDK"))
            archived = client.notes.ArchiveNote(ArchiveNoteRequest(id=note.id, etag=note.etag))
            assert archived.etag != note.etag
            return [row.name for row in rows(client.notes.ListNotes, ListNotesRequest())]

    assert await asyncio.to_thread(consume) == ["From the SDK"]


async def test_another_service_hears_of_it(mesh: Mesh):
    user = await mesh.sign_up()
    created = await mesh.http.post("/v1/notes", json={"name": "Heard"}, headers=user.headers)
    path = f"/v1/projects/{created.json()['id']}"

    async def heard() -> bool:
        return (await mesh.http.get(path, headers=user.headers)).status_code == 200

    await eventually(heard, within=20)
    assert (await mesh.http.get(path, headers=user.headers)).json()["name"] == "Heard"
