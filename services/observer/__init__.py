"""The operator's eyes: a window of recent traces."""
