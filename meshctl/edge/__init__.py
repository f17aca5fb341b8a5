"""Envoy's configuration where it runs, and Envoy as a program of the supervisor."""
