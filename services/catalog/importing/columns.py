"""Maps the columns of a file to the fields of a product, and records to rows."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from protomesh.catalog.v1.product_pb2 import Product
from protomesh.catalog.v1.product_service_pb2 import ProductRow
from protomesh.type.v1.money_pb2 import Money

from services.catalog.importing.failure import ImportFailed

# Column names that are recognized without --map. The first one that a file has is used.
SYNONYMS: Mapping[str, Sequence[str]] = {
    "sku": ("sku", "stock_code", "stockcode", "product_code", "item_code", "code"),
    "name": ("name", "title", "product_name", "item_name"),
    "description": ("description", "long_description", "details"),
    "price": ("price", "unit_price", "unitprice", "amount"),
    "currency": ("currency", "currency_code"),
    "category": ("category", "category_path"),
    "status": ("status",),
    "stock": ("stock", "initial_stock", "received", "quantity", "qty"),
}
REQUIRED = ("sku", "name", "price")
# ISO 4217: the decimals of currencies that do not have two.
_DECIMALS = {
    **dict.fromkeys(re.findall("...", "BIFCLPDJFGNFISKJPYKMFKRWPYGRWFUGXUYIVNDVUVXAFXOFXPF"), 0),
    **dict.fromkeys(re.findall("...", "BHDIQDJODKWDLYDOMRTND"), 3),
}
# Bounds that keep the arithmetic exact; the server checks the bounds of the contract.
_LARGEST_PRICE = 10**12
_LARGEST_STOCK = 2**31 - 1

_SURROGATE = re.compile("[\ud800-\udfff]")


class RowError(Exception):
    """Why a record is not a valid product: a sentence for the reject file."""


@dataclass(frozen=True)
class ColumnMap:
    """The columns of a file by the field that they hold, and the currency of prices without one."""

    columns: Mapping[str, str]
    currency: str

    @classmethod
    def detect(cls, header: Sequence[str], told: Mapping[str, str], currency: str = "") -> "ColumnMap":
        """Returns the given mapping, completed from the column names. Raises ImportFailed when that is not enough."""
        _check_told(header, told)
        columns = dict(told)
        for field, synonyms in SYNONYMS.items():
            if field not in columns and (found := _find(header, synonyms, set(columns.values()))):
                columns[field] = found
        if "name" not in columns and "description" in columns:
            # If a file has only a description, it is the text that people know the product by.
            columns["name"] = columns.pop("description")
        if "price" not in columns and (found := next(filter(_priced_in, header), "")):
            columns["price"] = found
        for field in REQUIRED:
            if field not in columns:
                raise ImportFailed(f"No column holds the {field}: name it with --map {field}=COLUMN.")
        currency = (currency or _priced_in(columns["price"])).upper()
        if "currency" not in columns and not re.fullmatch("[A-Z]{3}", currency):
            raise ImportFailed(
                "No column holds the currency: set it with --currency, such as --currency GBP."
            )
        return cls(columns, currency)

    def row(self, values: Mapping[str, Any]) -> ProductRow:
        """Returns a record as a row. Raises RowError when it cannot be one; the server checks the contract."""
        given = {field: _tidy(values.get(column)) for field, column in self.columns.items()}
        currency = given.get("currency", "").upper() or self.currency
        row = ProductRow(sku=given["sku"], name=given["name"], price=_money(given["price"], currency))
        if given.get("description"):
            row.description = str(values[self.columns["description"]]).strip()
        if given.get("category"):
            row.category_path = "/".join(slug for slug, _ in category_levels(given["category"]))
        if given.get("status"):
            row.status = _status(given["status"])
        if given.get("stock"):
            row.initial_stock = _units(given["stock"])
        return row


def category_levels(text: str) -> list[tuple[str, str]]:
    """Returns slug and name of each level of a category such as `home/tea-lights` or `Home > Tea lights`."""
    names = [name.strip() for name in re.split(r"[/>]", text) if name.strip()]
    levels = []
    for name in names:
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        if not slug:
            raise RowError(f"the category {text!r} has a level without letters or digits")
        levels.append((slug[:60].rstrip("-"), name.replace("-", " ").capitalize() if name == slug else name))
    return levels


def _check_told(header: Sequence[str], told: Mapping[str, str]) -> None:
    for field, column in told.items():
        if field not in SYNONYMS:
            raise ImportFailed(f"--map: {field!r} is not a field; the fields are {', '.join(SYNONYMS)}.")
        if column not in header:
            raise ImportFailed(f"The file has no column {column!r}; its columns are {', '.join(header)}.")


def _find(header: Sequence[str], synonyms: Sequence[str], taken: set[str]) -> str:
    plain = {_plain(column): column for column in header if column not in taken}
    return next((plain[synonym] for synonym in synonyms if synonym in plain), "")


def _plain(column: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")


def _priced_in(column: str) -> str:
    """Returns the currency in a column name such as `unit_price_gbp`; "" if there is none."""
    found = re.fullmatch(r"(?:unit_?)?price_([a-z]{3})", _plain(column))
    return found[1] if found else ""


def _tidy(value: Any) -> str:
    """Returns the text without outer blanks, and with single inner ones."""
    if value is None:
        return ""
    if isinstance(value, str):
        if _SURROGATE.search(value):
            raise RowError("it has half a surrogate pair, which is not a character")
        return " ".join(value.split())
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise RowError(f"{value!r} is neither text nor a number")


def _money(text: str, currency: str) -> Money:
    if not re.fullmatch("[A-Z]{3}", currency):
        raise RowError(f"{currency!r} is not a currency")
    try:
        amount = Decimal(text.lstrip("£$€ "))
    except InvalidOperation:
        raise RowError(f"the price {text!r} is not a number" if text else "it has no price") from None
    if not amount.is_finite() or not -_LARGEST_PRICE <= amount <= _LARGEST_PRICE:
        raise RowError(f"the price {text!r} is out of range")
    minor = amount.scaleb(_DECIMALS.get(currency, 2))
    if minor != int(minor):
        raise RowError(f"the price {text!r} has more decimals than {currency}")
    return Money(currency_code=currency, amount_minor=int(minor))


def _status(text: str) -> Product.Status.ValueType:
    known = {name: number for name, number in Product.Status.items() if number}
    if text.lower() not in known:
        raise RowError(f"{text!r} is not a status; the statuses are {', '.join(known)}")
    return known[text.lower()]


def _units(text: str) -> int:
    try:
        units = Decimal(text)
    except InvalidOperation:
        raise RowError(f"the stock {text!r} is not a number") from None
    if not units.is_finite() or not -_LARGEST_STOCK <= units <= _LARGEST_STOCK or units != int(units):
        raise RowError(f"the stock {text!r} is not a whole number of units")
    return int(units)
