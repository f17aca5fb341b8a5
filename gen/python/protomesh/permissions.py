"""The permissions of the platform. Generated from proto/ by scripts/gen; not edited by hand."""

from typing import Final

CATALOG_CATEGORIES_WRITE: Final = "catalog.categories.write"
CATALOG_PRODUCTS_IMPORT: Final = "catalog.products.import"
CATALOG_PRODUCTS_READ_ALL: Final = "catalog.products.read_all"
CATALOG_PRODUCTS_WRITE: Final = "catalog.products.write"
CATALOG_STOCK_READ: Final = "catalog.stock.read"
CATALOG_STOCK_WRITE: Final = "catalog.stock.write"
IDENTITY_ROLES_ASSIGN: Final = "identity.roles.assign"
IDENTITY_ROLES_READ: Final = "identity.roles.read"
IDENTITY_SIGNING_KEYS_ROTATE: Final = "identity.signing_keys.rotate"
IDENTITY_USERS_READ: Final = "identity.users.read"
IDENTITY_USERS_WRITE: Final = "identity.users.write"
OBSERVER_TRACES_READ: Final = "observer.traces.read"
ORDERS_CANCEL_ALL: Final = "orders.cancel_all"
ORDERS_PLACE: Final = "orders.place"
ORDERS_READ_ALL: Final = "orders.read_all"
