"""The fixtures of an edge that tests share."""

from tests.edge_stand import edge_certificates, running_stand, stand
from tests.unit.chassis.conftest import certificate_directory

__all__ = ["certificate_directory", "edge_certificates", "running_stand", "stand"]
