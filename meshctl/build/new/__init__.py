"""`meshctl new`: writes the first version of a service, a resource, an RPC, an event or a migration.

The result is ordinary code of the repository, to be edited by hand from then on: no base class, no generated
servicer, nothing to run again.
"""
