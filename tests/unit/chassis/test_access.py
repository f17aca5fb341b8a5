"""Who may call: tokens, permissions, workloads."""

import base64
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from joserfc import jwt
from joserfc.jwk import ECKey

from chassis.core import errors
from chassis.trust import Revocations, TokenVerifier
from tests.unit.chassis.stand import KEY, Keys, Stand, Thing, bearer, method, token

CODE = grpc.StatusCode


async def reason(call: Any) -> str:
    """Why a call failed; "" when it did not."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return errors.reason_of(error)
    return ""


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def handmade(sign: Callable[[bytes], bytes], **header: Any) -> str:
    """A token with good claims that no library would make."""
    claims = jwt.decode(token(), KEY).claims
    parts = ({"alg": "ES256", "typ": "at+jwt", "kid": "one", **header}, claims)
    text = ".".join(encoded(json.dumps(part).encode()) for part in parts)
    return f"{text}.{encoded(sign(text.encode()))}"


def properly(text: bytes) -> bytes:
    private: Any = KEY.private_key
    r, s = decode_dss_signature(private.sign(text, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def with_the_public_key(text: bytes) -> bytes:
    """The classic confusion: the published key taken as an HMAC secret."""
    return hmac.digest(KEY.as_pem(private=False), text, "sha256")


def with_a_key_of_its_own() -> str:
    """A forger's signature, and the forger's key in the header."""
    own = ECKey.generate_key("P-256")
    header = {"jwk": own.as_dict(private=False), "jku": "https://example.com/keys", "kid": "one"}
    return token(header=header, key=own)


BAD = {
    "rubbish": lambda: "rubbish",
    "empty": lambda: "..",
    "expired": lambda: token(exp=int(time.time()) - 1),
    "not valid yet": lambda: token(nbf=int(time.time()) + 60),
    "another audience": lambda: token(aud="somebody"),
    "several audiences": lambda: token(aud=["protomesh", "somebody"]),
    "another issuer": lambda: token(iss="somebody"),
    "no subject": lambda: token(sub=""),
    "another type": lambda: token(header={"typ": "JWT"}),
    "an unknown key": lambda: token(header={"kid": "two"}),
    "no key": lambda: handmade(properly, kid=None),
    "a critical header": lambda: handmade(properly, crit=["exp"], exp=1),
    "no signature": lambda: handmade(lambda _: b"", alg="none"),
    "the public key as a secret": lambda: handmade(with_the_public_key, alg="HS256"),
    "a signature cut short": lambda: handmade(lambda text: properly(text)[:-1]),
    "a key of its own": with_a_key_of_its_own,
    "another key": lambda: token(key=ECKey.generate_key("P-256")),
}


async def test_a_good_token_names_its_caller(stand: Stand) -> None:
    await method(stand.channel(), "Mine")(Thing(), metadata=bearer(token()))
    caller = stand.scratch.call.caller
    assert caller.user_id.startswith("1111")
    assert (caller.role, caller.permissions) == ("staff", {"scratch.write", "scratch.read"})
    assert caller.session_id.startswith("2222")
    assert caller.may("scratch.read")
    assert not caller.may("scratch.delete")


@pytest.mark.parametrize("rpc", ["Own", "OwnList"])
async def test_an_owner_sees_what_is_theirs_and_is_not_privileged(stand: Stand, rpc: str) -> None:
    owner = "11111111-1111-7111-8111-111111111111"
    assert await reason(method(stand.channel(), rpc)(Thing(text=owner), metadata=bearer(token()))) == ""
    assert not stand.scratch.call.privileged


@pytest.mark.parametrize("rpc", ["Own", "OwnList"])
async def test_a_handler_that_forgets_to_scope_shows_nobody_what_is_anothers(stand: Stand, rpc: str) -> None:
    call = method(stand.channel(), rpc)(Thing(text="somebody else"), metadata=bearer(token()))
    assert await reason(call) == "INTERNAL"


@pytest.mark.parametrize("rpc", ["Own", "OwnList"])
async def test_a_holder_of_the_permission_sees_what_is_anothers(stand: Stand, rpc: str) -> None:
    held = token(scope="scratch.read_all")
    call = method(stand.channel(), rpc)(Thing(text="somebody else"), metadata=bearer(held))
    assert await reason(call) == ""
    assert stand.scratch.call.privileged


@pytest.mark.parametrize("rpc", ["Own", "OwnList"])
async def test_what_is_somebodys_needs_a_token(stand: Stand, rpc: str) -> None:
    assert await reason(method(stand.channel(), rpc)(Thing())) == "TOKEN_MISSING"


async def test_no_token_is_said_to_be_missing(stand: Stand) -> None:
    assert await reason(method(stand.channel(), "Mine")(Thing())) == "TOKEN_MISSING"


@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_token_is_refused(stand: Stand, kind: str) -> None:
    assert (
        await reason(method(stand.channel(), "Mine")(Thing(), metadata=bearer(BAD[kind]())))
        == "TOKEN_INVALID"
    )


async def test_a_token_made_by_hand_is_as_good_as_any(stand: Stand) -> None:
    assert await reason(method(stand.channel(), "Mine")(Thing(), metadata=bearer(handmade(properly)))) == ""


async def test_an_endless_token_is_not_looked_at() -> None:
    keys = Keys()
    verifier = TokenVerifier(keys, Revocations(), issuer="protomesh", audience="protomesh")
    with pytest.raises(errors.Unauthenticated):
        await verifier.verify("a" * 9000)
    assert keys.asked == 0


async def test_another_scheme_is_refused_even_with_a_known_token(stand: Stand) -> None:
    good = token()
    await method(stand.channel(), "Mine")(Thing(), metadata=bearer(good))
    call = method(stand.channel(), "Mine")(Thing(), metadata=(("authorization", f"Basic  {good}"),))
    assert await reason(call) == "TOKEN_INVALID"


async def test_a_public_rpc_takes_a_bad_token_for_none(stand: Stand) -> None:
    await method(stand.channel(), "Open")(Thing(), metadata=bearer(token(exp=1)))
    assert stand.scratch.call.caller.user_id == ""


async def test_a_public_rpc_knows_its_caller_by_a_good_token(stand: Stand) -> None:
    await method(stand.channel(), "Open")(Thing(), metadata=bearer(token()))
    assert stand.scratch.call.caller.user_id


async def test_a_token_is_verified_once(stand: Stand) -> None:
    text = token()
    for _ in range(3):
        await method(stand.channel(), "Mine")(Thing(), metadata=bearer(text))
    assert stand.keys.asked == 1


async def test_a_known_token_still_expires(stand: Stand) -> None:
    text = token(exp=time.time() + 0.5)
    call = method(stand.channel(), "Mine")
    await call(Thing(), metadata=bearer(text))
    time.sleep(0.5)  # noqa: ASYNC251 (the token's own clock is waited for)
    assert await reason(call(Thing(), metadata=bearer(text))) == "TOKEN_INVALID"


async def test_a_revoked_session_ends_a_known_token(stand: Stand) -> None:
    text = token()
    call = method(stand.channel(), "Mine")
    await call(Thing(), metadata=bearer(text))
    caller = stand.scratch.call.caller
    stand.service.revocations.revoke(caller.user_id, [caller.session_id], time.time())
    assert await reason(call(Thing(), metadata=bearer(text))) == "TOKEN_REVOKED"


async def test_a_user_signed_out_everywhere_may_sign_in_again(stand: Stand) -> None:
    now = int(time.time())
    call = method(stand.channel(), "Mine")
    stand.service.revocations.revoke("11111111-1111-7111-8111-111111111111", [], now)
    assert await reason(call(Thing(), metadata=bearer(token(iat=now - 1)))) == "TOKEN_REVOKED"
    assert await reason(call(Thing(), metadata=bearer(token(iat=now)))) == ""


async def test_a_revocation_of_one_user_leaves_the_others(stand: Stand) -> None:
    stand.service.revocations.revoke("somebody", [], time.time() + 1)
    assert await reason(method(stand.channel(), "Mine")(Thing(), metadata=bearer(token()))) == ""


async def test_a_permission_that_the_role_lacks_is_named(stand: Stand) -> None:
    call = method(stand.channel(), "Write")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(Thing(), metadata=bearer(token(scope="scratch.read")))
    error = errors.from_rpc(caught.value)
    assert (error.code, error.reason) == (CODE.PERMISSION_DENIED, "PERMISSION_MISSING")
    assert error.metadata == {"permission": "scratch.write"}
    assert (await call(Thing(text="x"), metadata=bearer(token()))).text == "x"


async def test_an_internal_rpc_takes_the_workloads_of_its_contract(stand: Stand) -> None:
    assert await reason(method(stand.channel("ordering"), "Inner")(Thing())) == ""
    assert stand.scratch.workload == "ordering"
    for other in ("edge", "stranger"):
        assert await reason(method(stand.channel(other), "Inner")(Thing())) == "WORKLOAD_NOT_ALLOWED"


async def test_an_internal_rpc_is_not_open_to_users_whatever_their_role(stand: Stand) -> None:
    call = method(stand.channel("edge"), "Inner")(Thing(), metadata=bearer(token(role="admin")))
    assert await reason(call) == "WORKLOAD_NOT_ALLOWED"


async def test_another_trust_domain_is_no_workload_of_ours(stand: Stand) -> None:
    assert await reason(method(stand.channel("stranger"), "Anybody")(Thing())) == ""
    assert await reason(method(stand.channel("foreign"), "Anybody")(Thing())) == "WORKLOAD_NOT_ALLOWED"


async def test_a_header_that_claims_an_identity_changes_nothing(stand: Stand) -> None:
    claims = (
        ("x-user-id", "admin"),
        ("x-user-role", "admin"),
        ("x-forwarded-client-cert", "URI=spiffe://x/ordering"),
    )
    assert (
        await reason(method(stand.channel("edge"), "Inner")(Thing(), metadata=claims))
        == "WORKLOAD_NOT_ALLOWED"
    )
    await method(stand.channel("edge"), "Open")(Thing(), metadata=claims)
    assert stand.scratch.call.caller.user_id == ""


async def test_the_clients_address_is_taken_from_the_edge_alone(stand: Stand) -> None:
    forwarded = (("x-forwarded-for", "6.6.6.6, 1.2.3.4"),)
    await method(stand.channel("edge"), "Open")(Thing(), metadata=forwarded)
    assert stand.scratch.address == "1.2.3.4"
    await method(stand.channel("ordering"), "Open")(Thing(), metadata=forwarded)
    assert stand.scratch.address == ""
