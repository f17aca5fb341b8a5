"""The calls of projects to identity: whether a user exists, and the profiles that members may see of each other."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import grpc
from protomesh.identity.v1.user_pb2 import PublicProfile
from protomesh.identity.v1.user_service_pb2 import BatchGetPublicProfilesRequest, BatchGetUsersRequest

if TYPE_CHECKING:  # the stubs' type information knows this name, the module does not
    from protomesh.identity.v1.user_service_pb2_grpc import UserServiceAsyncStub

logger = logging.getLogger(__name__)

# A list of members waits at most this long for their names.
_PATIENCE_SECONDS = 0.5


class People:
    """Users, as identity knows them."""

    def __init__(self, users: "UserServiceAsyncStub") -> None:
        self._users = users

    async def includes(self, user_id: str) -> bool:
        """Returns whether the user exists and can sign in."""
        users = (await self._users.BatchGetUsers(BatchGetUsersRequest(user_ids=[user_id]))).users
        return bool(users) and not users[0].disabled

    async def profiles(self, user_ids: Sequence[str]) -> Mapping[str, PublicProfile]:
        """Returns public profiles by user id, for at most 100 users.

        Returns none of them when identity does not respond in time: the list of members is useful without names.
        """
        if not user_ids:
            return {}
        request = BatchGetPublicProfilesRequest(user_ids=user_ids)
        try:
            answer = await self._users.BatchGetPublicProfiles(request, timeout=_PATIENCE_SECONDS)
        except grpc.aio.AioRpcError as error:
            logger.warning(
                "Listing members without their profiles, because identity failed: %s", error.code()
            )
            return {}
        return {profile.id: profile for profile in answer.profiles}
