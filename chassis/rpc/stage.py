"""The stage of a pipeline: it sees the call, and decides whether and how the next stage runs."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from chassis.rpc.call import Call

# Takes the request, or the iterator of requests of a client stream; returns the answer, or None when the messages of
# a server stream are already written. So all four call shapes have the same form for every stage.
Proceed = Callable[[Any, Call], Awaitable[Any]]


class Stage(Protocol):
    """One step around the handler. It raises failures, preferably as a MeshError.

    A stage that has nothing to wait for is a plain function: it checks and returns `proceed(request, call)`, so that
    it costs no coroutine. It registers what it has to do at the call's end with `call.at_end`. A stage that needs the
    answer is an `async def` that awaits it.
    """

    def __call__(self, proceed: Proceed, request: Any, call: Call) -> Awaitable[Any]:
        """Does its part and continues with `proceed(request, call)`, unless the call ends here."""
