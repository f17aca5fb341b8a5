"""Builds and operates the mesh."""
