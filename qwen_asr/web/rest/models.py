"""`/v1/models`: the models that the server has."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from qwen_asr.errors import NotReady
from qwen_asr.web.error_response import status_response
from qwen_asr.web.rest.answers import Answer

if TYPE_CHECKING:
    from qwen_asr.service.service import Service


class Model(Answer):
    """A model."""

    id: str = Field(description="Its name: the one that it was given, its id on the Hugging Face hub, or its folder's.")
    object: Literal["model"] = "model"
    created: int = Field(description="When the server started, as Unix time. A checkpoint has no date.")
    owned_by: Literal["qwen-asr"] = "qwen-asr"
    state: Literal["ready", "loading", "unloaded", "failed"] = Field(
        description="Whether it is loaded. A request that names it loads it."
    )


class ModelList(Answer):
    """The models of the server. The first is the default."""

    object: Literal["list"] = "list"
    data: list[Model] = Field(min_length=1)


class Models:
    """The two routes."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._created = int(time.time())

    async def list(self, _: Request) -> Response:
        """The models that a request may name. The first answers if it names none of them."""
        return JSONResponse(ModelList(data=[*self._models()]).model_dump())

    async def retrieve(self, request: Request) -> Response:
        """The model with that name."""
        models, name = self._models(), request.path_params["name"]
        known = self._service.models.named(name)
        found = next((model for model in models if model.id == (name if known is None else known.name)), None)
        if found is not None:
            return JSONResponse(found.model_dump())
        served = " and ".join(repr(model.id) for model in models)
        others = "are, and the first answers under any other name" if models[1:] else "is, and answers under any name"
        message = f"The model {name!r} is not served here; {served} {others}."
        return status_response(404, message, code="model_not_found", param="model")

    def _models(self) -> Sequence[Model]:
        check_ready(self._service)
        return [Model(id=one.name, created=self._created, state=one.state) for one in self._service.models.all]


def check_ready(service: Service) -> None:
    """Raises what `Service.check_ready` raises; instead of a lasting NotReady, the error with which loading failed."""
    try:
        service.check_ready()
    except NotReady as refusal:
        if service.stopping or service.error is None:
            raise
        raise service.error from refusal
