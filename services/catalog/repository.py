"""The SQL of categories and products; the SQL of stock is in stock_repository.py."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Uuid, bindparam, func, literal_column, select, text, update
from sqlalchemy.orm import aliased

from chassis.core import AlreadyExists, FailedPrecondition, NotFound
from chassis.data import Listing, Query, RankedListing, Refusal, Refusals, Row, UnitOfWork
from services.catalog import search
from services.catalog.model import Category, Product, Stock, check_depth

_TOP = aliased(Category)
_SUBTREE = (
    select(Category.id)
    .join_from(Category, _TOP, func.starts_with(Category.path + "/", _TOP.path + "/"))
    .where(_TOP.id == bindparam("category_id", type_=Uuid))
)

PRODUCT_COLUMNS = (*Product.__table__.columns, Stock.available)
# Every product has stock, but PostgreSQL can skip an outer join when it only counts a list.
_PRODUCTS = select(*PRODUCT_COLUMNS).outerjoin_from(Product, Stock, Stock.product_id == Product.id)
_FILTERS = {
    "search": search.FOUND,
    "without": search.WITHOUT,
    "category_id": Product.category_id.in_(_SUBTREE),
    "status": Product.status == bindparam("status"),
    "for_sale": Product.status == literal_column("'active'"),
    "currency_code": Product.currency_code == bindparam("currency_code"),
    "min_price_minor": Product.price_minor >= bindparam("min_price_minor"),
    "max_price_minor": Product.price_minor <= bindparam("max_price_minor"),
    "sku": Product.sku == bindparam("sku"),
}

GET_PRODUCT = Query(_PRODUCTS.where(Product.id == bindparam("id")))
_SELECTIVE = ("search",)
_NEWEST_FIRST = (Product.created_at.desc(), Product.id.desc())
BEST_MATCH = RankedListing(
    _PRODUCTS,
    matches="search",
    ranks=search.RANKS,
    order_by=_NEWEST_FIRST,
    filters=_FILTERS,
    selective=_SELECTIVE,
)
NEWEST = Listing(_PRODUCTS, filters=_FILTERS, order_by=_NEWEST_FIRST, selective=_SELECTIVE)
_BY_PRICE = (Product.currency_code, Product.price_minor, Product.id)
CHEAPEST = Listing(_PRODUCTS, filters=_FILTERS, order_by=_BY_PRICE, selective=_SELECTIVE)
DEAREST = Listing(
    _PRODUCTS, filters=_FILTERS, order_by=[column.desc() for column in _BY_PRICE], selective=_SELECTIVE
)

_CATEGORIES = select(*Category.__table__.columns)
GET_CATEGORY = Query(_CATEGORIES.where(Category.id == bindparam("id")))
ALL_CATEGORIES = Query(_CATEGORIES.order_by(Category.path))
CATEGORIES = Listing(
    _CATEGORIES,
    filters={"parent_id": Category.parent_id == bindparam("parent_id")},
    order_by=(Category.path,),
)

# What the violation of a constraint means depends on the operation.
WRITING = Refusals(
    {
        "categories_path_key": Refusal(
            AlreadyExists, "SLUG_TAKEN", "Another category at this level has this slug.", metadata=("slug",)
        ),
        "products_sku_key": Refusal(
            AlreadyExists, "SKU_TAKEN", "Another product has this SKU.", metadata=("sku",)
        ),
        "products_category_id_fkey": Refusal(NotFound, "CATEGORY_NOT_FOUND", "No such category."),
    }
)
DELETING = Refusals(
    {
        "categories_parent_id_fkey": Refusal(
            FailedPrecondition, "CATEGORY_HAS_CHILDREN", "The category has subcategories."
        ),
        "products_category_id_fkey": Refusal(
            FailedPrecondition, "CATEGORY_IN_USE", "The category has products."
        ),
    }
)


async def lock_category_tree(work: UnitOfWork) -> None:
    """Serializes changes of the tree: two concurrent moves, each valid alone, could create a cycle together."""
    await work.execute(text("SELECT pg_advisory_xact_lock(hashtext('catalog.categories'))"))


async def category(work: UnitOfWork, id: str) -> Category:
    """Returns a category. Raises NotFound CATEGORY_NOT_FOUND."""
    found = await work.get(Category, UUID(id))
    if found is None:
        raise category_not_found()
    return found


async def parent(work: UnitOfWork, id: str) -> Category | None:
    """Returns the parent category, or None (the top level) for an empty id. Raises NotFound CATEGORY_NOT_FOUND."""
    return await category(work, id) if id else None


async def carry_subtree(work: UnitOfWork, moved: Category, old_path: str, old_depth: int) -> Sequence[Row]:
    """Updates the paths below a category that moved from `old_path`; returns the updated categories.

    Raises FailedPrecondition CATEGORY_TOO_DEEP.
    """
    below = func.starts_with(Category.path, f"{old_path}/")
    deepest = (await work.execute(select(func.max(Category.depth)).where(below))).scalar()
    if deepest is None:
        return []
    deeper = moved.depth - old_depth
    check_depth(deepest + deeper)
    carried = await work.execute(
        update(Category)
        .where(below)
        .values(
            path=moved.path + func.substr(Category.path, len(old_path) + 1),
            depth=Category.depth + deeper,
            version=Category.version + 1,
            updated_at=moved.updated_at,
        )
        .returning(*Category.__table__.columns)
        .execution_options(synchronize_session=False)
    )
    return carried.all()


async def save_category(work: UnitOfWork, entity: Category) -> None:
    """Writes a category. Raises AlreadyExists SLUG_TAKEN."""
    with WRITING.told(slug=entity.slug):
        await work.save(entity)


async def delete_category(work: UnitOfWork, entity: Category) -> None:
    """Deletes a category. Raises FailedPrecondition CATEGORY_HAS_CHILDREN or CATEGORY_IN_USE."""
    with DELETING.told():
        await work.delete(entity)


async def lock_product(work: UnitOfWork, id: str) -> tuple[Product, int]:
    """Returns a product and its available units; locks the product. Raises NotFound PRODUCT_NOT_FOUND."""
    statement = (
        select(Product, Stock.available)
        .join(Stock, Stock.product_id == Product.id)
        .where(Product.id == UUID(id))
        .with_for_update(of=Product, key_share=True)
    )
    found = (await work.execute(statement)).first()
    if found is None:
        raise product_not_found()
    return found.Product, found.available


async def save_product(work: UnitOfWork, entity: Product) -> None:
    """Writes a product. Raises AlreadyExists SKU_TAKEN, NotFound CATEGORY_NOT_FOUND."""
    with WRITING.told(sku=entity.sku):
        await work.save(entity)


async def category_ids(work: UnitOfWork, paths: Sequence[str]) -> dict[str, UUID]:
    """Returns the ids of the categories that exist, by path; locks them against deletion."""
    held = (
        select(Category.path, Category.id)
        .where(Category.path.in_(paths))
        .with_for_update(read=True, key_share=True)
    )
    return {row.path: row.id for row in await work.execute(held)}


def product_not_found() -> NotFound:
    """Returns the error for a product that does not exist or that the caller may not see."""
    return NotFound("PRODUCT_NOT_FOUND", "No such product.")


def category_not_found() -> NotFound:
    """Returns the error for a category that does not exist."""
    return NotFound("CATEGORY_NOT_FOUND", "No such category.")
