"""Looking into a mesh that runs: calls, traces, events."""
