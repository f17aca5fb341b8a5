"""The fixtures of an edge that tests share."""

from tests.edge_stand import edge_certificates, running_stand, stand

__all__ = ["edge_certificates", "running_stand", "stand"]
