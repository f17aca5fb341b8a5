"""The servicer of ProductService."""

from typing import Any
from uuid import UUID

from protomesh.catalog.v1 import product_pb2
from protomesh.catalog.v1.catalog_events_pb2 import ProductArchived, ProductCreated, ProductUpdated
from protomesh.catalog.v1.product_service_pb2 import (
    ArchiveProductRequest,
    BatchImportProductsRequest,
    BatchImportProductsResponse,
    CreateProductRequest,
    GetAnyProductRequest,
    GetProductRequest,
    ListAllProductsRequest,
    ListAllProductsResponse,
    ListProductsRequest,
    ListProductsResponse,
    UpdateProductRequest,
)

from chassis.core import timestamp
from chassis.data import Database, Page
from chassis.rpc import Call
from services.catalog import convert, product_import, repository, search, stock_repository
from services.catalog.model import Product, ProductStatus, normal_sku

_LISTINGS = {
    ListProductsRequest.newest: repository.NEWEST,
    ListProductsRequest.price_ascending: repository.CHEAPEST,
    ListProductsRequest.price_descending: repository.DEAREST,
}


class ProductService:
    """Products: everybody can read those that are for sale, staff can read and change all of them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def GetProduct(self, request: GetProductRequest, call: Call) -> product_pb2.Product:
        row = await self._database.one(repository.GET_PRODUCT, id=UUID(request.id))
        if row is None or row.status != ProductStatus.ACTIVE:
            raise repository.product_not_found()
        return convert.listed_product(row)

    async def ListProducts(self, request: ListProductsRequest, call: Call) -> ListProductsResponse:
        page = await self._page(request, {"for_sale": {}})
        return ListProductsResponse(data=map(convert.listed_product, page.rows), meta=page.meta)

    async def GetAnyProduct(self, request: GetAnyProductRequest, call: Call) -> product_pb2.Product:
        row = await self._database.one(repository.GET_PRODUCT, id=UUID(request.id))
        if row is None:
            raise repository.product_not_found()
        return convert.listed_product(row)

    async def ListAllProducts(self, request: ListAllProductsRequest, call: Call) -> ListAllProductsResponse:
        page = await self._page(request, {})
        return ListAllProductsResponse(data=map(convert.listed_product, page.rows), meta=page.meta)

    async def CreateProduct(self, request: CreateProductRequest, call: Call) -> product_pb2.Product:
        product = Product.new(call.operation_id, **convert.product_columns(request))
        async with self._database.unit_of_work() as work:
            await repository.save_product(work, product)
            await stock_repository.receive_first(
                work, {product.id: request.initial_stock}, call.caller.user_id
            )
            answer = convert.product_message(product, request.initial_stock)
            work.publish(ProductCreated(product_id=answer.id, product=answer), version=product.version)
            return work.answer(answer)

    async def UpdateProduct(self, request: UpdateProductRequest, call: Call) -> product_pb2.Product:
        async with self._database.unit_of_work() as work:
            product, available = await repository.lock_product(work, request.id)
            call.match_etag(product.version, request.etag)
            changed = product.change(**convert.product_changes(request))
            await repository.save_product(work, product)
            answer = convert.product_message(product, available)
            if changed:
                work.publish(ProductUpdated(product_id=answer.id, product=answer), version=product.version)
        return answer

    async def ArchiveProduct(self, request: ArchiveProductRequest, call: Call) -> product_pb2.Product:
        async with self._database.unit_of_work() as work:
            product, available = await repository.lock_product(work, request.id)
            call.match_etag(product.version, request.etag)
            if product.change(status=ProductStatus.ARCHIVED.value):
                await repository.save_product(work, product)
                answer = convert.product_message(product, available)
                event = ProductArchived(
                    product_id=answer.id, product=answer, archived_at=timestamp(product.updated_at)
                )
                work.publish(event, version=product.version)
            return work.answer(convert.product_message(product, available))

    async def BatchImportProducts(
        self, request: BatchImportProductsRequest, call: Call
    ) -> BatchImportProductsResponse:
        batch = product_import.Batch(request.rows)
        async with self._database.unit_of_work() as work:
            await batch.write(work, call.caller.user_id)
        return BatchImportProductsResponse(results=batch.results)

    async def _page(
        self, request: ListProductsRequest | ListAllProductsRequest, scope: dict[str, Any]
    ) -> Page:
        unsorted = repository.BEST_MATCH if request.search else repository.NEWEST
        listing = _LISTINGS.get(request.sort, unsorted)
        return await listing.fetch(self._database, request, filters=_filters(request) | scope)


def _filters(request: ListProductsRequest | ListAllProductsRequest) -> dict[str, Any]:
    filters: dict[str, Any] = {}
    if request.search:
        filters |= search.filters(request.search)
    if request.sku:
        filters["sku"] = normal_sku(request.sku)
    if request.currency_code:
        filters["currency_code"] = request.currency_code
    if request.status:
        filters["status"] = convert.product_status(request.status)
    if request.HasField("category_id"):
        filters["category_id"] = UUID(request.category_id)
    for bound in ("min_price_minor", "max_price_minor"):
        if request.HasField(bound):
            filters[bound] = getattr(request, bound)
    return filters
