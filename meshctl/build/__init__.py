"""What is derived from the contracts, and the static checks."""
