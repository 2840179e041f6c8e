"""What a container's, or a load balancer's, probes ask: /healthz and /readyz. Both say in words why not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from qwen_asr.config.limits import RETRY_AFTER_SECONDS

if TYPE_CHECKING:
    from starlette.requests import Request

    from qwen_asr.service.service import Service


class Probes:
    """The two routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def health(self, request: Request) -> Response:
        """200 while the process does its work; 503 where only a new one would, so that a supervisor restarts it.

        That this is answered shows that the event loop gets on; what is asked is whether the recognizer's thread does.
        With HTTPS it tells the end of the certificate too, and what there is to warn of.
        """
        told: dict[str, Any] = {}
        if (certificate := getattr(request.app.state, "certificate", None)) is not None:
            told["certificate"] = {"not_after": certificate.expiry().isoformat(), "warning": certificate.warning()}
        unhealthy_reason = self._service.unhealthy_reason()
        if unhealthy_reason is None:
            return JSONResponse({"status": "ok", **told})
        return JSONResponse({"status": "unhealthy", "text": unhealthy_reason, **told}, 503)

    async def ready(self, _: Request) -> Response:
        """200 while a session can be opened, else 503 with what the server is doing, or why it never will."""
        state, text = self._service.readiness()
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if state in ("loading", "stopping") else {}
        return JSONResponse({"status": state, "text": text}, 200 if state == "ready" else 503, headers)
