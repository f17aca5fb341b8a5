"""The tree of categories."""

import asyncio
from typing import Any

import grpc
import pytest
from protomesh.catalog.v1.catalog_events_pb2 import CategoryCreated, CategoryDeleted, CategoryUpdated
from protomesh.catalog.v1.category_pb2 import Category
from protomesh.catalog.v1.category_service_pb2 import (
    CreateCategoryRequest,
    DeleteCategoryRequest,
    GetCategoryRequest,
    GetCategoryTreeRequest,
    ListCategoriesRequest,
    UpdateCategoryRequest,
)

from tests.service.catalog.conftest import Catalog, new_id, refusal, word


async def _path(catalog: Catalog, category: Category) -> str:
    return (await catalog.categories.GetCategory(GetCategoryRequest(id=category.id))).path


async def _move(catalog: Catalog, category: Category, parent_id: str, **fields: Any) -> Category:
    request = UpdateCategoryRequest(id=category.id, parent_id=parent_id, **fields)
    return await catalog.categories.UpdateCategory(request, metadata=catalog.staff)


async def test_a_category_knows_the_path_from_the_top(catalog: Catalog):
    home = await catalog.new_category()
    candles = await catalog.new_category(home, slug="candles")
    assert (candles.path, candles.depth, candles.parent_id) == (f"{home.slug}/candles", 1, home.id)


async def test_the_tree_is_nested_and_in_the_order_of_display(catalog: Catalog):
    top = await catalog.new_category()
    for slug, position in (("c", 0), ("a", 2), ("b", 1)):
        await catalog.new_category(top, slug=slug, name=slug, position=position)
    below = await catalog.categories.ListCategories(ListCategoriesRequest(parent_id=top.id))
    tree = await catalog.categories.GetCategoryTree(GetCategoryTreeRequest(root_id=top.id))
    whole = await catalog.categories.GetCategoryTree(GetCategoryTreeRequest())
    assert [category.slug for category in below.data] == ["a", "b", "c"]
    assert [node.category.slug for node in tree.data] == ["c", "b", "a"]
    assert [len(node.children) for node in whole.data if node.category.id == top.id] == [3]


async def test_a_category_moves_with_everything_below_it(catalog: Catalog):
    old, new = await catalog.new_category(), await catalog.new_category()
    middle = await catalog.new_category(old, slug="middle")
    leaf = await catalog.new_category(middle, slug="leaf")
    await _move(catalog, middle, new.id, slug="centre")
    assert await _path(catalog, leaf) == f"{new.slug}/centre/leaf"
    await _move(catalog, middle, "")
    assert await _path(catalog, leaf) == "centre/leaf"
    await _move(catalog, middle, old.id)


async def test_a_category_cannot_move_below_itself(catalog: Catalog):
    top = await catalog.new_category()
    leaf = await catalog.new_category(await catalog.new_category(top))
    for parent in (top, leaf):
        assert (await refusal(_move(catalog, top, parent.id))).reason == "CATEGORY_CYCLE"


async def test_two_moves_at_once_never_close_a_cycle(catalog: Catalog):
    for _ in range(10):
        one, other = await catalog.new_category(), await catalog.new_category()
        moves = _move(catalog, one, other.id), _move(catalog, other, one.id)
        outcomes = await asyncio.gather(*moves, return_exceptions=True)
        assert sum(isinstance(outcome, grpc.aio.AioRpcError) for outcome in outcomes) == 1
        assert {await _path(catalog, one), await _path(catalog, other)} in (
            {one.slug, f"{one.slug}/{other.slug}"},
            {other.slug, f"{other.slug}/{one.slug}"},
        )


async def test_a_tree_ends_at_eight_levels_however_one_comes_there(catalog: Catalog):
    deepest = await catalog.new_category()
    for _ in range(7):
        deepest = await catalog.new_category(deepest)
    assert (await refusal(catalog.new_category(deepest))).reason == "CATEGORY_TOO_DEEP"
    pair = await catalog.new_category()
    await catalog.new_category(pair)
    moving = _move(catalog, pair, deepest.parent_id)
    assert (await refusal(moving)).reason == "CATEGORY_TOO_DEEP"
    assert await _path(catalog, pair) == pair.slug


async def test_siblings_have_different_slugs(catalog: Catalog):
    top = await catalog.new_category()
    await catalog.new_category(top, slug="same")
    refused = await refusal(catalog.new_category(top, slug="same"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "SLUG_TAKEN")
    await catalog.new_category(await catalog.new_category(), slug="same")


async def test_a_category_that_something_hangs_on_is_not_deleted(catalog: Catalog):
    top = await catalog.new_category()
    leaf = await catalog.new_category(top)
    await catalog.new_product(category_id=leaf.id)
    for category, reason in ((top, "CATEGORY_HAS_CHILDREN"), (leaf, "CATEGORY_IN_USE")):
        deleting = catalog.categories.DeleteCategory(
            DeleteCategoryRequest(id=category.id), metadata=catalog.staff
        )
        assert (await refusal(deleting)).reason == reason
    empty = await catalog.new_category()
    await catalog.categories.DeleteCategory(DeleteCategoryRequest(id=empty.id), metadata=catalog.staff)
    assert (await refusal(_path(catalog, empty))).reason == "CATEGORY_NOT_FOUND"


async def test_a_change_of_what_somebody_else_changed_is_aborted(catalog: Catalog):
    category = await catalog.new_category()
    changed = await _move(catalog, category, "", name="New", etag=category.etag)
    assert changed.etag != category.etag
    refused = await refusal(_move(catalog, category, "", name="Newer", etag=category.etag))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")


async def test_the_whole_life_of_a_category_is_published(catalog: Catalog):
    old, new = await catalog.new_category(), await catalog.new_category()
    middle = await catalog.new_category(old, slug="middle")
    leaf = await catalog.new_category(middle, slug="leaf")
    await _move(catalog, middle, new.id)
    await _move(catalog, middle, new.id)
    for category in (leaf, middle):
        request = DeleteCategoryRequest(id=category.id)
        await catalog.categories.DeleteCategory(request, metadata=catalog.staff)
    for category, path in ((middle, f"{new.slug}/middle"), (leaf, f"{new.slug}/middle/leaf")):
        events = await catalog.published(category.id)
        assert [(type(event), version) for event, version in events] == [
            (CategoryCreated, 1),
            (CategoryUpdated, 2),
            (CategoryDeleted, 3),
        ]
        moved = events[1][0]
        assert isinstance(moved, CategoryUpdated)
        assert moved.category.path == path


async def test_only_staff_changes_the_tree(catalog: Catalog):
    customer = await catalog.mesh.sign_up()
    creating = catalog.categories.CreateCategory(
        CreateCategoryRequest(slug=word(), name="x"), metadata=[("authorization", f"Bearer {customer.token}")]
    )
    assert (await refusal(creating)).reason == "PERMISSION_MISSING"


@pytest.mark.parametrize("slug", ["", "Upper", "a/b", "../etc", "a--b", "-a", "a\x00", "ä", "a" * 61])
async def test_a_slug_is_plain(catalog: Catalog, slug: str):
    assert (await refusal(catalog.new_category(slug=slug))).reason == "VALIDATION_FAILED"


async def test_nothing_hangs_below_what_does_not_exist(catalog: Catalog):
    assert (await refusal(catalog.new_category(parent_id=new_id()))).reason == "CATEGORY_NOT_FOUND"
