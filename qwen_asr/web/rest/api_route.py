"""The kind of route that the REST API is made of: errors as JSON, HEAD, and 405 for other methods."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from qwen_asr.web.early_answer import Body, answer_early
from qwen_asr.web.error_response import error_response, status_response

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


class ApiRoute(APIRoute):
    """A documented route that answers every method on its path.

    HEAD is answered where GET is. Any other method that the route does not have is answered with 405. Without that, the
    routes that come later would answer it: the 404 for unknown paths below `/v1`, and the page.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], *, method: str = "GET", **documentation: Any) -> None:
        """`documentation` takes the arguments of `APIRoute` that describe the route in `/openapi.json`."""
        # Plain Response: endpoints return responses, and the document's media types are those that are named there.
        super().__init__(path, endpoint, methods=[method], response_class=Response, **documentation)
        self.allowed = sorted({method, "HEAD"} if method == "GET" else {method})

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint, with its errors as JSON."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except Exception as error:
                return error_response(error)

        return handle

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Matches the path alone, whatever the method."""
        match, child_scope = super().matches(scope)
        return (Match.FULL if match is Match.PARTIAL else match), child_scope

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["method"] in self.allowed:
            await self.app(scope, receive, send)
            return
        message = f"{scope['method']} is not allowed for {scope['path']}; use {' or '.join(self.allowed)}."
        headers = {"Allow": ", ".join(self.allowed)}
        response = status_response(405, message, code="method_not_allowed", headers=headers)
        await answer_early(response, Body(receive), scope, receive, send)
