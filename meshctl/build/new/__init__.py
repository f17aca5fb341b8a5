"""`meshctl new`: the first text of a service, a resource, an RPC, an event or a migration, as a founder would write it.

What is written is ordinary code of the repository, and nobody's but its reader's from then on: no base class, no
generated servicer, nothing to run again.
"""
