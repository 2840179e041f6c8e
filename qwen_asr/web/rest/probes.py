"""`/healthz` and `/readyz`, for the probes of containers and load balancers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from qwen_asr.config.limits import RETRY_AFTER_SECONDS

if TYPE_CHECKING:
    from qwen_asr.service.service import Service


class CertificateStatus(BaseModel):
    """The certificate that the server uses for HTTPS."""

    not_after: str = Field(description="When it expires, in ISO 8601.")
    warning: str | None = Field(description="What is wrong with it, in a sentence.")


class Health(BaseModel):
    """The answer of /healthz."""

    status: Literal["ok", "unhealthy"]
    text: str = Field(default="", description="Why only a restart helps. Present if unhealthy.")
    certificate: CertificateStatus | None = Field(default=None, description="Present with HTTPS.")


class Readiness(BaseModel):
    """The answer of /readyz."""

    status: Literal["loading", "ready", "unavailable", "failed", "stopping"]
    text: str = Field(description="What the server is doing, or why it is not ready.")


class Probes:
    """The two routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def health(self, request: Request) -> Response:
        """200 while the server works, 503 if only a restart helps. With HTTPS also when the certificate expires."""
        # An answer at all shows that the event loop runs. What is left to check is the recognizer's thread.
        health = Health(status="ok")
        if (reason := self._service.unhealthy_reason()) is not None:
            health = Health(status="unhealthy", text=reason)
        if (certificate := getattr(request.app.state, "certificate", None)) is not None:
            health.certificate = CertificateStatus(
                not_after=certificate.expiry().isoformat(), warning=certificate.warning()
            )
        return JSONResponse(health.model_dump(exclude_unset=True), 200 if health.status == "ok" else 503)

    async def ready(self, _: Request) -> Response:
        """200 while sessions can be opened, 503 while the checkpoint loads, if loading failed, while no engine is
        reachable, and during shutdown."""
        state, text = self._service.readiness()
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if state in ("loading", "unavailable", "stopping") else {}
        body = Readiness.model_validate({"status": state, "text": text})
        return JSONResponse(body.model_dump(), 200 if state == "ready" else 503, headers)
