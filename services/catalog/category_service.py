"""The servicer of CategoryService."""

from datetime import UTC, datetime
from uuid import UUID

from google.protobuf.empty_pb2 import Empty
from protomesh.catalog.v1 import category_pb2
from protomesh.catalog.v1.catalog_events_pb2 import CategoryCreated, CategoryDeleted, CategoryUpdated
from protomesh.catalog.v1.category_service_pb2 import (
    CategoryTree,
    CreateCategoryRequest,
    DeleteCategoryRequest,
    GetCategoryRequest,
    GetCategoryTreeRequest,
    ListCategoriesRequest,
    ListCategoriesResponse,
    UpdateCategoryRequest,
)

from chassis.core import timestamp
from chassis.data import Database, Row, UnitOfWork
from chassis.rpc import Call
from services.catalog import convert, repository
from services.catalog.model import Category


class CategoryService:
    """The tree of categories. Changes to it wait for each other, so that no two of them make a cycle together."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def GetCategory(self, request: GetCategoryRequest, call: Call) -> category_pb2.Category:
        row = await self._database.one(repository.GET_CATEGORY, id=UUID(request.id))
        if row is None:
            raise repository.category_not_found()
        return convert.category_message(row)

    async def ListCategories(self, request: ListCategoriesRequest, call: Call) -> ListCategoriesResponse:
        filters = {"parent_id": UUID(request.parent_id)} if request.HasField("parent_id") else {}
        page = await repository.CATEGORIES.fetch(self._database, request, filters=filters)
        return ListCategoriesResponse(data=map(convert.category_message, page.rows), meta=page.meta)

    async def GetCategoryTree(self, request: GetCategoryTreeRequest, call: Call) -> CategoryTree:
        root_id = UUID(request.root_id) if request.HasField("root_id") else None
        rows = await self._database.all(repository.ALL_CATEGORIES)
        if root_id and all(row.id != root_id for row in rows):
            raise repository.category_not_found()
        return convert.category_tree(rows, root_id)

    async def CreateCategory(self, request: CreateCategoryRequest, call: Call) -> category_pb2.Category:
        async with self._database.unit_of_work() as work:
            await repository.lock_category_tree(work)
            parent = await repository.parent(work, request.parent_id)
            category = Category.create(
                UUID(call.operation_id), parent, request.slug, request.name, request.position
            )
            await repository.save_category(work, category)
            answer = convert.category_message(category)
            work.publish(CategoryCreated(category_id=answer.id, category=answer), version=category.version)
            return work.answer(answer)

    async def UpdateCategory(self, request: UpdateCategoryRequest, call: Call) -> category_pb2.Category:
        async with self._database.unit_of_work() as work:
            await repository.lock_category_tree(work)
            category = await repository.category(work, request.id)
            call.match_etag(category.version, request.etag)
            old_path, old_depth, old_version = category.path, category.depth, category.version
            parent_id = request.parent_id if request.HasField("parent_id") else str(category.parent_id or "")
            category.change(**convert.category_changes(request))
            category.hang(await repository.parent(work, parent_id))
            await repository.save_category(work, category)
            if category.version != old_version:
                _publish_change(work, category)
            if category.path != old_path:
                for carried in await repository.carry_subtree(work, category, old_path, old_depth):
                    _publish_change(work, carried)
        return convert.category_message(category)

    async def DeleteCategory(self, request: DeleteCategoryRequest, call: Call) -> Empty:
        async with self._database.unit_of_work() as work:
            await repository.lock_category_tree(work)
            category = await repository.category(work, request.id)
            call.match_etag(category.version, request.etag)
            await repository.delete_category(work, category)
            gone = convert.category_message(category)
            event = CategoryDeleted(
                category_id=gone.id, category=gone, deleted_at=timestamp(datetime.now(UTC))
            )
            work.publish(event, version=category.version + 1)
        return Empty()


def _publish_change(work: UnitOfWork, category: Category | Row) -> None:
    message = convert.category_message(category)
    work.publish(CategoryUpdated(category_id=message.id, category=message), version=category.version)
