"""Which column is which field, and what a record comes to."""

import pytest
from protomesh.catalog.v1.product_pb2 import Product

from services.catalog.importing.columns import ColumnMap, RowError, category_levels
from services.catalog.importing.failure import ImportFailed

PLAIN = ColumnMap.detect(["sku", "name", "price"], {}, "GBP")


def test_columns_are_found_by_their_names():
    found = ColumnMap.detect(["Stock Code", "Title", "Unit-Price", "Currency", "Qty"], {})
    assert found.columns == {
        "sku": "Stock Code",
        "name": "Title",
        "price": "Unit-Price",
        "currency": "Currency",
        "stock": "Qty",
    }


def test_a_lone_description_is_the_name_and_a_price_column_may_name_its_currency():
    found = ColumnMap.detect(["stock_code", "description", "unit_price_eur"], {})
    assert found.columns == {"sku": "stock_code", "name": "description", "price": "unit_price_eur"}
    assert found.currency == "EUR"


def test_what_is_told_wins_over_what_is_guessed():
    found = ColumnMap.detect(
        ["sku", "code", "name", "label", "price"], {"sku": "code", "name": "label"}, "USD"
    )
    assert (found.columns["sku"], found.columns["name"]) == ("code", "label")


@pytest.mark.parametrize(
    ("header", "told", "currency", "sentence"),
    [
        (["a", "b"], {}, "GBP", "No column holds the sku: name it with --map sku=COLUMN."),
        (["sku", "name", "price"], {}, "", "No column holds the currency"),
        (["sku", "name", "price"], {"colour": "sku"}, "GBP", "'colour' is not a field"),
        (["sku", "name", "price"], {"sku": "code"}, "GBP", "The file has no column 'code'"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(
    header: list[str], told: dict[str, str], currency: str, sentence: str
):
    with pytest.raises(ImportFailed, match=sentence.replace("?", ".")):
        ColumnMap.detect(header, told, currency)


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [
        ("2.55", "GBP", 255),
        ("£10", "GBP", 1000),
        ("1E2", "USD", 10000),
        ("250", "JPY", 250),
        ("1.234", "KWD", 1234),
    ],
)
def test_a_price_is_exact_in_minor_units(text: str, currency: str, minor: int):
    columns = ColumnMap.detect(["sku", "name", "price"], {}, currency)
    assert columns.row({"sku": "A", "name": "n", "price": text}).price.amount_minor == minor


@pytest.mark.parametrize("text", ["", "free", "2,55", "1.005", "NaN", "inf", "1e30", "1e999999999", "£"])
def test_what_is_no_price_is_rejected(text: str):
    with pytest.raises(RowError):
        PLAIN.row({"sku": "A", "name": "n", "price": text})


def test_outer_and_double_blanks_go():
    row = PLAIN.row({"sku": " A  1 ", "name": "Red\t  mug ", "price": " 1 "})
    assert (row.sku, row.name) == ("A 1", "Red mug")


def test_optional_fields_that_are_empty_are_not_sent():
    columns = ColumnMap.detect(
        ["sku", "name", "description", "price", "status", "stock", "category"], {}, "GBP"
    )
    empty = columns.row({"sku": "A", "name": "n", "price": "1", "status": "", "stock": " ", "category": None})
    assert {field.name for field, _ in empty.ListFields()} == {"sku", "name", "price"}
    full = columns.row(
        {"sku": "A", "name": "n", "price": 1, "status": "Draft", "stock": "3.0", "category": "A > B c"}
    )
    assert (full.status, full.initial_stock, full.category_path) == (Product.draft, 3, "a/b-c")


@pytest.mark.parametrize(
    ("field", "text"), [("status", "sold"), ("stock", "1.5"), ("stock", "9e9"), ("category", "!")]
)
def test_a_field_that_makes_no_sense_is_rejected(field: str, text: str):
    columns = ColumnMap.detect(["sku", "name", "price", field], {}, "GBP")
    with pytest.raises(RowError):
        columns.row({"sku": "A", "name": "n", "price": "1", field: text})


def test_category_levels_have_slugs_and_names():
    assert category_levels("Home & Garden > Tea-lights") == [
        ("home-garden", "Home & Garden"),
        ("tea-lights", "Tea-lights"),
    ]
    assert category_levels("home/tea-lights") == [("home", "Home"), ("tea-lights", "Tea lights")]
