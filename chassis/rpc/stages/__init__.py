"""The stages of the pipeline, one file each; chassis/rpc/pipeline.py lists them in order."""

from chassis.rpc.stages.admission import Admission
from chassis.rpc.stages.audit import Audit
from chassis.rpc.stages.deadline import Deadline
from chassis.rpc.stages.idempotency import Idempotency
from chassis.rpc.stages.per_caller import PerCaller

__all__ = ["Admission", "Audit", "Deadline", "Idempotency", "PerCaller"]
