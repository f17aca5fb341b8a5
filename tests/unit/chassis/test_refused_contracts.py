"""Contracts that break a rule of the house: who uses them is told which one."""

from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.message_factory import GetMessageClass
from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled

from chassis import contract
from chassis.contract import ContractError, published
from chassis.core import Settings
from chassis.rpc import MeshChannel
from chassis.service import Service
from tests import protos

(FILE,) = protos.compiled(
    "refused.proto",
    """
    syntax = "proto3";
    package refused.v1;
    import "protomesh/options/v1/options.proto";

    message Order {
      string id = 1;
      string owner_id = 2;
      map<string, Buyer> buyers = 3;
      repeated Buyer others = 4;
    }
    message Buyer {
      string id = 1;
      string email = 2 [(protomesh.options.v1.personal_data) = true];
    }
    message ElsewherePlaced {
      option (protomesh.options.v1.event) = {
        subject: "elsewhere.order.placed.v1", stream: "REFUSED", aggregate_id_field: "id"
      };
      string id = 1;
    }
    message NobodyPlaced {
      option (protomesh.options.v1.event) = {
        subject: "refused.order.placed.v1", stream: "REFUSED", aggregate_id_field: "order_id"
      };
      string id = 1;
    }
    service OwnerlessService {
      option (protomesh.options.v1.service) = {deployable: "refused"};
      rpc Get(Order) returns (Buyer) {
        option (protomesh.options.v1.access) = {
          self: {field: "owner_id" permission: {name: "refused.read_all"}}
        };
      }
    }
    service KeyedService {
      option (protomesh.options.v1.service) = {deployable: "refused"};
      rpc Place(Order) returns (Order) {
        option (protomesh.options.v1.access) = {public: true};
        option (protomesh.options.v1.idempotency_key) = required_header;
      }
    }
    service HomelessService {
      rpc Get(Order) returns (Order) {
        option (protomesh.options.v1.access) = {public: true};
      }
    }
    """,
)
Order, Buyer, ElsewherePlaced, NobodyPlaced = (
    GetMessageClass(FILE.message_types_by_name[name])
    for name in ("Order", "Buyer", "ElsewherePlaced", "NobodyPlaced")
)


def served(name: str) -> Service:
    """A service with a servicer for each RPC of a contract."""
    service = Service(Settings(service="refused", port=0))
    names = contract.service_descriptor(name).methods_by_name
    service.serve(name, type("Servicer", (), dict.fromkeys(names, _nothing))())
    return service


async def _nothing(self: object, request: Any, call: Any) -> Any:
    return request


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("refused.v1.OwnerlessService", "no field 'owner_id' of the answer names its owner"),
        ("refused.v1.KeyedService", "takes idempotency keys, so its service needs a database"),
    ],
)
async def test_a_service_does_not_start_on_a_contract_that_it_cannot_keep(name: str, sentence: str) -> None:
    with pytest.raises(ContractError, match=sentence):
        await served(name).run(SimpleNamespace())  # type: ignore[arg-type]  # it never gets to waiting


def test_a_contract_that_names_no_deployable_cannot_be_called() -> None:
    channel = MeshChannel(Settings(service="refused"))
    with pytest.raises(ContractError, match="HomelessService does not name a deployable"):
        channel.unary_unary("/refused.v1.HomelessService/Get")


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        (ElsewherePlaced, "must begin with the stream's name"),
        (NobodyPlaced, "has no field 'order_id'"),
        (Order, "has no .* option"),
    ],
)
def test_an_event_that_could_not_be_published_is_none(event: Any, sentence: str) -> None:
    with pytest.raises(TypeError, match=sentence):
        contract.event_type(event)
    with pytest.raises(ContractError, match=sentence):
        Service(Settings(service="refused")).subscribe("refused.test", {event: _nothing})


def test_a_subscription_that_the_events_contract_does_not_list_is_refused() -> None:
    with pytest.raises(
        ContractError, match=r"OrderCancelled does not list refused\.test among its `subscribers`"
    ):
        Service(Settings(service="refused")).subscribe("refused.test", {OrderCancelled: _nothing})


def test_a_service_has_one_subscription_of_a_name() -> None:
    service = Service(Settings(service="refused"))
    service.subscribe("refused.test", {})
    with pytest.raises(ContractError, match=r"two subscriptions named refused\.test"):
        service.subscribe("refused.test", {})


def test_personal_data_in_a_list_or_a_map_is_not_published_either() -> None:
    known, told = Buyer(id="b1", email="a@example.com"), Buyer(id="b1")
    event = Order(id="o1", buyers={"first": known}, others=[known, known])
    assert published(event) == Order(id="o1", buyers={"first": told}, others=[told, told])
