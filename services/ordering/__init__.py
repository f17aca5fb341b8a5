"""Orders: placed, followed, and brought to an end."""
