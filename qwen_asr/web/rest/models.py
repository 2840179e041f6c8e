"""`/v1/models`: the one model that the server has."""

from __future__ import annotations

import time
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
    """The loaded checkpoint."""

    id: str = Field(description="Its id on the Hugging Face hub, or the name of its folder.")
    object: Literal["model"] = "model"
    created: int = Field(description="When the server started, as Unix time. A checkpoint has no date.")
    owned_by: Literal["qwen-asr"] = "qwen-asr"


class ModelList(Answer):
    """A list with the loaded checkpoint as its only entry."""

    object: Literal["list"] = "list"
    data: list[Model] = Field(min_length=1, max_length=1)


class Models:
    """The two routes."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._created = int(time.time())

    async def list(self, _: Request) -> Response:
        """The list has one entry: the loaded checkpoint."""
        return JSONResponse(ModelList(data=[self._model()]).model_dump())

    async def retrieve(self, request: Request) -> Response:
        """The loaded checkpoint, if that is its name."""
        model, name = self._model(), request.path_params["name"]
        if name == model.id:
            return JSONResponse(model.model_dump())
        message = f"The model {name!r} is not served here; {model.id!r} is, and answers under any name."
        return status_response(404, message, code="model_not_found", param="model")

    def _model(self) -> Model:
        check_ready(self._service)
        return Model(id=self._service.model_name, created=self._created)


def check_ready(service: Service) -> None:
    """Raises what `Service.check_ready` raises; instead of a lasting NotReady, the error with which loading failed."""
    try:
        service.check_ready()
    except NotReady as refusal:
        if service.stopping or service.error is None:
            raise
        raise service.error from refusal
