"""A call: the server, the pipeline of stages that each call passes, and the channels to other services."""

from chassis.rpc import failure, pipeline
from chassis.rpc.call import Call, Caller, current_call
from chassis.rpc.channels import MeshChannel

__all__ = ["Call", "Caller", "MeshChannel", "current_call", "failure", "pipeline"]
