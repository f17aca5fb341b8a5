"""A window of recent traces for operators."""
