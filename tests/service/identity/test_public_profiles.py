"""What people who share something may see of each other."""

import uuid

import grpc
import pytest
from protomesh.identity.v1.user_pb2 import PublicProfile
from protomesh.identity.v1.user_service_pb2 import BatchGetPublicProfilesRequest, UpdateUserRequest
from protomesh.identity.v1.user_service_pb2_grpc import UserServiceStub

from tests.service.identity.stand import Identity


async def test_projects_can_give_its_members_names_in_the_order_it_asked(identity: Identity) -> None:
    ada, grace = await identity.register(username="ada"), await identity.register(username="grace")
    named = UpdateUserRequest(id=ada.id, first_name="Ada", last_name="Lovelace")
    await identity.users.UpdateUser(named, metadata=await identity.sign_in(ada.email))
    users = UserServiceStub(identity.channel("projects"))
    request = BatchGetPublicProfilesRequest(user_ids=[grace.id, str(uuid.uuid4()), ada.id])
    answer = await users.BatchGetPublicProfiles(request)
    assert list(answer.profiles) == [
        PublicProfile(id=grace.id, username="grace"),
        PublicProfile(id=ada.id, username="ada", first_name="Ada", last_name="Lovelace"),
    ]


def test_a_public_profile_holds_no_email_address() -> None:
    assert "email" not in PublicProfile.DESCRIPTOR.fields_by_name


@pytest.mark.parametrize("workload", ["catalog", "edge"])
async def test_public_profiles_are_only_for_services_that_know_who_shares_what(
    identity: Identity, workload: str
) -> None:
    users = UserServiceStub(identity.channel(workload))
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await users.BatchGetPublicProfiles(BatchGetPublicProfilesRequest(user_ids=[str(uuid.uuid4())]))
    assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
