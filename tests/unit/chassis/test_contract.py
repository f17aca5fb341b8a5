"""Contracts as the chassis reads them."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from chassis import contract
from chassis.contract import ContractError
from chassis.core import uuid7
from tests.unit.chassis.stand import SERVICE


def test_a_method_has_the_defaults_of_the_house() -> None:
    method = contract.method_at(f"/{SERVICE}/Open")
    assert method.full_name == f"{SERVICE}.Open"
    assert (method.deployable, method.timeout, method.max_request_bytes) == ("scratch", 2.0, 1024 * 1024)
    assert (method.success_status, method.audit, method.cache, method.idempotency_key) == (
        200,
        False,
        None,
        "none",
    )


def test_a_method_has_what_its_options_say() -> None:
    assert contract.method_at(f"/{SERVICE}/Slow").timeout == 0.3
    assert contract.method_at(f"/{SERVICE}/Small").max_request_bytes == 100
    assert contract.method_at(f"/{SERVICE}/Cached").cache == 60
    assert contract.method_at("/protomesh.identity.v1.UserService/DisableUser").audit
    assert contract.method_at(f"/{SERVICE}/Chat").client_streaming


def test_access_is_one_of_five_kinds() -> None:
    kinds = {
        name: contract.method_at(f"/{SERVICE}/{name}").access
        for name in ("Open", "Mine", "Write", "Inner", "Own")
    }
    assert {name: access.kind for name, access in kinds.items() if access} == {
        "Open": "public",
        "Mine": "authenticated",
        "Write": "permission",
        "Inner": "internal",
        "Own": "self",
    }


def test_an_internal_rpc_admits_nobody_without_a_name() -> None:
    for name in ("Inner", "Anybody"):
        access = contract.method_at(f"/{SERVICE}/{name}").access
        assert access is not None
        assert not access.admits_workload("")


@pytest.mark.parametrize("path", ["/no.such.Service/Get", f"/{SERVICE}/Missing", "nonsense"])
def test_an_rpc_that_no_contract_has_is_said_so(path: str) -> None:
    with pytest.raises(ContractError, match="No contract defines"):
        contract.method_at(path)


def test_roles_are_granted_what_the_contracts_say_and_admin_all() -> None:
    assert "catalog.products.write" in contract.permissions_of("staff")
    assert "catalog.products.write" not in contract.permissions_of("customer")
    assert contract.permissions_of("admin") == frozenset(contract.permissions())
    assert contract.permissions_of("nobody") == frozenset()


def test_only_harmless_calls_are_retried() -> None:
    methods = contract.service_config("scratch")["methodConfig"]
    retried = {entry["name"][0]["method"] for entry in methods if "retryPolicy" in entry}
    assert retried == {"Read", "Put"}


def test_identifiers_are_in_the_order_of_their_making() -> None:
    made = [uuid7() for _ in range(10_000)]
    assert made == sorted(made)
    assert all((each.version, each.variant) == (7, uuid.RFC_4122) for each in made)


def test_identifiers_of_several_threads_do_not_collide() -> None:
    start = threading.Barrier(4)

    def make(_: int) -> list[uuid.UUID]:
        start.wait()
        return [uuid7() for _ in range(5_000)]

    with ThreadPoolExecutor(4) as threads:
        made = [each for batch in threads.map(make, range(4)) for each in batch]
    assert len(set(made)) == len(made)
