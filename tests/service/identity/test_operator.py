"""The operator's token: for the certificate of `operator`, and for no other."""

import grpc
import pytest
from protomesh.identity.v1.auth_service_pb2 import IssueOperatorTokenRequest
from protomesh.identity.v1.auth_service_pb2_grpc import AuthServiceStub
from protomesh.identity.v1.user_service_pb2 import GetMeRequest, ListUsersRequest

from chassis.core import from_rpc
from tests.service.identity.stand import WORKLOADS, Identity


def issue(identity: Identity, workload: str):
    return AuthServiceStub(identity.channel(workload)).IssueOperatorToken(IssueOperatorTokenRequest())


async def test_an_operator_has_the_rights_of_an_administrator_and_no_account(identity: Identity) -> None:
    grant = await issue(identity, "operator")
    assert (grant.token_type, grant.expires_in, grant.refresh_token) == ("Bearer", 600, "")
    metadata = (("authorization", f"Bearer {grant.access_token}"),)
    assert (await identity.users.ListUsers(ListUsersRequest(), metadata=metadata)).data
    with pytest.raises(grpc.aio.AioRpcError) as nobody:
        await identity.users.GetMe(GetMeRequest(), metadata=metadata)
    assert from_rpc(nobody.value).reason == "USER_NOT_FOUND"


@pytest.mark.parametrize("workload", sorted({*WORKLOADS} - {"operator"}))
async def test_no_other_workload_gets_an_operators_token(identity: Identity, workload: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await issue(identity, workload)
    assert from_rpc(refused.value).reason == "WORKLOAD_NOT_ALLOWED"
