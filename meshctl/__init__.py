"""Builds and operates the mesh."""

__version__ = "0.1.0"
