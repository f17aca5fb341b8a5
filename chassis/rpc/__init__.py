"""Calls: the server, the pipeline of stages that each call passes, and the channels to other services."""

from chassis.rpc import failure, pipeline
from chassis.rpc.call import Call, Caller, current_call
from chassis.rpc.channels import MeshChannel
from chassis.rpc.token_keys import identity_keys

__all__ = ["Call", "Caller", "MeshChannel", "current_call", "failure", "identity_keys", "pipeline"]
