"""The mesh's own certificate authority."""
