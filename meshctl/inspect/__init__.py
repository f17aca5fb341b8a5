"""Inspects a running mesh: calls, traces, events, audit records."""
