"""Imports files of products into the catalog, as an ordinary client of the edge.

`python -m services.catalog.importing products FILE` is the command; `meshctl import` starts it for a local mesh.
"""
