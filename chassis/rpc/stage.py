"""What a stage of the pipeline is: it sees the call, and decides whether and how the next stage runs."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from chassis.rpc.call import Call

# Takes the request, or the iterator of requests of a client stream; gives the answer, or None when the messages of
# a server stream were written already. So all four call shapes have one form for every stage.
Proceed = Callable[[Any, Call], Awaitable[Any]]


class Stage(Protocol):
    """One step around the handler. A failure is raised, best as a MeshError.

    A stage that has nothing to wait for is a plain function: it looks, and returns `proceed(request, call)`, so that
    it costs no coroutine. What it has to do at the call's end it leaves with `call.at_end`. One that looks at the
    answer is an `async def`, and awaits it.
    """

    def __call__(self, proceed: Proceed, request: Any, call: Call) -> Awaitable[Any]:
        """Does its part, and goes on to `proceed(request, call)` unless the call ends here."""
