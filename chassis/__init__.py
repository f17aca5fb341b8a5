"""The run-time library of every service: it turns contracts into a server that enforces them."""
