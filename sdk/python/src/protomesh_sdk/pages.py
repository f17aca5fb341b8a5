"""Lists, row by row."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from google.protobuf.message import Message
from protomesh.type.v1 import page_pb2

Request = TypeVar("Request", bound=Message)
Row = TypeVar("Row")
Row_co = TypeVar("Row_co", covariant=True)


class Page(Protocol[Row_co]):
    """The response of every list."""

    @property
    def data(self) -> Sequence[Row_co]:
        """The rows of the page."""

    @property
    def meta(self) -> page_pb2.PageMeta:
        """The position of the page."""


def rows(call: Callable[[Request], Page[Row]], request: Request) -> Iterator[Row]:
    """Yields every row of a list, in order, page after page: `rows(mesh.orders.ListOrders, ListOrdersRequest())`.

    `limit` in the request is the size of a page. Rows that are inserted meanwhile do not shift others.
    """
    following = type(request)()
    following.CopyFrom(request)
    while True:
        page = call(following)
        yield from page.data
        if not page.meta.next_cursor:
            return
        following.cursor = page.meta.next_cursor  # type: ignore[attr-defined] # every list has it, by contract test
