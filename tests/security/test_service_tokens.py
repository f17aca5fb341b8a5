"""What services check themselves, though the edge has checked it: tokens, permissions, who speaks for whom."""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from joserfc import jws, jwt
from joserfc.jwk import ECKey
from pydantic import SecretStr

from chassis import contract
from chassis.contract import MethodContract
from chassis.data import Database
from services.identity.settings import IdentitySettings
from services.identity.signing_keys import KeyRing
from tests.mesh import Mesh, User
from tests.security.calls import refusal, rpc_id

NOT_FOR_CUSTOMERS = [
    method
    for method in contract.platform()
    if method.access and method.access.kind == "permission" and "customer" not in method.access.granted_to
]
# One RPC of each service that wants a token.
WANT_A_TOKEN = [
    "/protomesh.identity.v1.UserService/GetMe",
    "/protomesh.catalog.v1.ProductService/ListAllProducts",
    "/protomesh.ordering.v1.OrderService/ListOrders",
    "/protomesh.projects.v1.ProjectService/ListProjects",
    "/protomesh.observer.v1.ObserverService/ListTraces",
]

Mint = Callable[..., str]


@pytest.fixture(scope="module")
async def anna(mesh: Mesh) -> User:
    return await mesh.sign_up()


@pytest.fixture(scope="module")
async def mint(mesh: Mesh, anna: User) -> Mint:
    """Makes tokens as identity does, with its real key, but for what a test changes; None leaves a claim out."""
    settings = IdentitySettings(
        service="identity",
        database_url=mesh.database_url("identity"),
        key_encryption_secret=SecretStr(mesh.folder.secrets().get("key_encryption_secret")),
    )
    async with Database.of(settings) as database:
        ring = KeyRing(database, settings)
        await ring.refresh()
        signer = ring.signer()
    usual = jwt.decode(anna.token, signer.private).claims

    def mint(header: Mapping[str, Any] | None = None, key: ECKey | None = None, **claims: Any) -> str:
        told = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        headers = {"alg": "ES256", "typ": "at+jwt", "kid": signer.kid, **(header or {})}
        return jwt.encode(headers, told, key or signer.private, algorithms=["ES256"])

    return mint


def encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def by_hand(header: Mapping[str, Any], token: str, secret: bytes = b"") -> str:
    """The claims of a token under another header, unsigned or signed with a shared secret."""
    text = f"{encoded(json.dumps(header).encode())}.{token.split('.')[1]}"
    return f"{text}.{encoded(hmac.new(secret, text.encode(), hashlib.sha256).digest()) if secret else ''}"


async def forgeries(mesh: Mesh, mint: Mint) -> dict[str, str]:
    """Tokens that are no good, each for one reason."""
    keys = (await mesh.http.get("/.well-known/jwks.json")).json()["keys"]
    # The newest of them may be one that waits for its time.
    kid = jws.extract_compact(mint().encode()).headers()["kid"]
    public = next(ECKey.import_key(key) for key in keys if key["kid"] == kid)
    header, stranger, now = {"typ": "at+jwt", "kid": kid}, ECKey.generate_key("P-256"), int(time.time())
    return {
        "expired": mint(iat=now - 700, exp=now - 100),
        "endless": mint(exp=None),
        "for another audience": mint(aud="another"),
        "for several audiences": mint(aud=["protomesh", "another"]),
        "of another issuer": mint(iss="another"),
        "of the future": mint(iat=now + 3600),
        "about nobody": mint(sub=""),
        "of another type": mint({"typ": "JWT"}),
        "signed by a stranger": mint(key=stranger),
        "with a key of its own": mint({"jwk": stranger.as_dict(private=False)}, stranger),
        "of an unknown key": mint({"kid": "unknown"}),
        "unsigned": by_hand({**header, "alg": "none"}, mint()),
        "signed with the public key": by_hand(
            {**header, "alg": "HS256"}, mint(), public.as_pem(private=False)
        ),
        "changed": mint()[:-8] + "AAAAAAAA",
        "no token at all": "nonsense",
    }


@pytest.mark.parametrize("workload", ["edge", "developer"])
@pytest.mark.parametrize("path", WANT_A_TOKEN, ids=lambda path: path.rpartition(".")[2])
async def test_a_service_checks_tokens_itself_whoever_passes_them_on(
    mesh: Mesh, mint: Mint, path: str, workload: str
) -> None:
    method, channel = contract.method_at(path), mesh.channel(workload)
    good = mint(scope="catalog.products.read_all observer.traces.read")
    assert await refusal(channel, method, good) == ("OK", "")
    assert await refusal(channel, method) == ("UNAUTHENTICATED", "TOKEN_MISSING")
    for kind, token in (await forgeries(mesh, mint)).items():
        assert await refusal(channel, method, token) == ("UNAUTHENTICATED", "TOKEN_INVALID"), kind


@pytest.mark.parametrize("method", NOT_FOR_CUSTOMERS, ids=rpc_id)
async def test_a_customer_gets_nowhere_with_what_is_for_staff(
    mesh: Mesh, anna: User, method: MethodContract
) -> None:
    denied = ("PERMISSION_DENIED", "PERMISSION_MISSING")
    assert await refusal(mesh.channel("developer"), method, anna.token) == denied
    spoofed = {"x-user-role": "admin", "x-user-id": secrets.token_hex(16), "x-forwarded-client-cert": "admin"}
    assert await refusal(mesh.channel("edge"), method, anna.token, metadata=spoofed) == denied


async def test_metadata_that_names_a_user_makes_nobody_that_user(mesh: Mesh, anna: User) -> None:
    method, channel = (
        contract.method_at("/protomesh.identity.v1.UserService/GetMe"),
        mesh.channel("developer"),
    )
    spoofed = {"x-user-id": anna.id, "x-internal-user": anna.id, "x-forwarded-user": anna.id}
    assert await refusal(channel, method, metadata=spoofed) == ("UNAUTHENTICATED", "TOKEN_MISSING")


async def test_who_is_not_the_edge_speaks_for_no_address(mesh: Mesh) -> None:
    bert, method = await mesh.sign_up(), contract.method_at("/protomesh.identity.v1.AuthService/LoginUser")
    request = method.request_class(email=bert.email, password="a wrong guess")
    channel = mesh.channel("developer")
    # Enough failures to make whoever comes from that address wait.
    spoofed = {"x-forwarded-for": "127.0.0.1"}
    refused = [await refusal(channel, method, request=request, metadata=spoofed) for _ in range(7)]
    assert refused[0] == ("UNAUTHENTICATED", "LOGIN_FAILED")
    assert refused[-1] == ("RESOURCE_EXHAUSTED", "RATE_LIMITED")
    # The edge sees the tests at that address.
    assert await mesh.log_in(bert.email, bert.password)
