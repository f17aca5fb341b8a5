"""`meshctl seed`: sample accounts, categories, products and stock, written as a client would write them."""

import asyncio

import grpc
from protomesh.identity.v1.auth_service_pb2 import RegisteredUser, RegisterUserRequest
from protomesh.identity.v1.auth_service_pb2_grpc import AuthServiceStub
from protomesh.identity.v1.role_service_pb2 import AssignRoleRequest
from protomesh.identity.v1.role_service_pb2_grpc import RoleServiceStub
from protomesh.identity.v1.user_pb2 import Account

from meshctl.core.arguments import Data
from meshctl.core.deployables import SERVICES
from meshctl.core.failure import OperatorError
from meshctl.core.folder import DEFAULT_FOLDER, MeshFolder
from meshctl.mesh import tools
from meshctl.mesh.session import CALL_SECONDS, Metadata, OperatorSession

SAMPLES = SERVICES / "catalog/samples/products.jsonl"
ACCOUNTS = (Account.staff, Account.customer)


def seed(data: Data = DEFAULT_FOLDER) -> None:
    """Load the sample data.

    Existing data stays as it is.
    """
    folder = MeshFolder(data.resolve())
    asyncio.run(_accounts(folder))
    _products(folder)


async def _accounts(folder: MeshFolder) -> None:
    async with OperatorSession.of(folder.root) as session:
        for role in ACCOUNTS:
            await _account(session, role, folder.secrets().get(f"{Account.Role.Name(role)}_password"))


async def _account(session: OperatorSession, role: Account.Role.ValueType, password: str) -> None:
    """Creates an account named after its role, unless it exists."""
    name = Account.Role.Name(role)
    request = RegisterUserRequest(username=name, email=f"{name}@protomesh.local", password=password)
    auth, roles = AuthServiceStub(session.channel), RoleServiceStub(session.channel)

    async def register(metadata: Metadata) -> RegisteredUser | None:
        try:
            return await auth.RegisterUser(request, timeout=CALL_SECONDS, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                raise
            return None

    account = await session.call(register)
    # A user who registers becomes a customer.
    if account is not None and role != Account.customer:
        assignment = AssignRoleRequest(id=account.id, role=role)
        await session.call(
            lambda metadata: roles.AssignRole(assignment, timeout=CALL_SECONDS, metadata=metadata)
        )


def _products(folder: MeshFolder) -> None:
    # An import writes its progress and its rejects next to the file, whose own folder may be read-only.
    file = folder.root / SAMPLES.name
    file.write_bytes(SAMPLES.read_bytes())
    arguments = ("products", str(file), "--create-categories")
    # As the operator, whoever imports by the environment.
    told = {**tools.known_of(folder.root), "ADMIN_EMAIL": ""}
    tools.run_quietly(tools.IMPORTING, arguments, told)
    file.unlink()
    if rejects := list(folder.root.glob(f"{SAMPLES.name}.rejects.*")):
        raise OperatorError(f"The catalog rejected sample products: the reasons are in {rejects[0]}.")
