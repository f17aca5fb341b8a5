"""Brings files of products into the catalog: a client of the edge, as anybody could write one.

`python -m services.catalog.importing products FILE` is the command; `meshctl import` starts it for a mesh nearby.
"""
