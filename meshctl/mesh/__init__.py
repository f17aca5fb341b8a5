"""The running mesh: its supervisor, processes and parts, and the commands that bring it up and down."""
