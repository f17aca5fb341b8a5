"""What projects asks identity: whether a user is there, and what members may see of each other."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import grpc
from protomesh.identity.v1.user_pb2 import PublicProfile
from protomesh.identity.v1.user_service_pb2 import BatchGetPublicProfilesRequest, BatchGetUsersRequest

if TYPE_CHECKING:  # the stubs' type information knows this name, the module does not
    from protomesh.identity.v1.user_service_pb2_grpc import UserServiceAsyncStub

logger = logging.getLogger(__name__)

# A list of members waits no longer for their names.
_PATIENCE_SECONDS = 0.5


class People:
    """Users, as identity knows them."""

    def __init__(self, users: "UserServiceAsyncStub") -> None:
        self._users = users

    async def includes(self, user_id: str) -> bool:
        """Whether there is such a user, who can sign in."""
        users = (await self._users.BatchGetUsers(BatchGetUsersRequest(user_ids=[user_id]))).users
        return bool(users) and not users[0].disabled

    async def profiles(self, user_ids: Sequence[str]) -> Mapping[str, PublicProfile]:
        """Public profiles by user id, of at most 100 users. None of them when identity does not answer in time: who
        takes part is worth telling without the names.
        """
        if not user_ids:
            return {}
        request = BatchGetPublicProfilesRequest(user_ids=user_ids)
        try:
            answer = await self._users.BatchGetPublicProfiles(request, timeout=_PATIENCE_SECONDS)
        except grpc.aio.AioRpcError as error:
            logger.warning("Members are listed without their profiles: %s", error.code())
            return {}
        return {profile.id: profile for profile in answer.profiles}
