"""The source of the keys that access tokens are signed with: the identity service, over mTLS."""

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf import json_format

from chassis.contract.registry import method_at
from chassis.rpc.channels import MeshChannel
from chassis.trust.keys import FetchedKeys

_GET_KEYS = "/protomesh.identity.v1.AuthService/GetJsonWebKeySet"


def identity_keys(mesh: MeshChannel) -> FetchedKeys:
    """Returns the keys that identity publishes, fetched over mTLS."""

    async def fetch() -> Iterable[Mapping[str, Any]]:
        # By name, since the chassis knows no domain's generated code.
        method = method_at(_GET_KEYS)
        call = mesh.unary_unary(
            _GET_KEYS,
            request_serializer=method.request_class.SerializeToString,
            response_deserializer=method.response_class.FromString,
        )
        answer = await call(method.request_class(), metadata=(("authorization", ""),))
        keys: list[dict[str, Any]] = json_format.MessageToDict(answer, preserving_proto_field_name=True)[
            "keys"
        ]
        return keys

    return FetchedKeys(fetch)
