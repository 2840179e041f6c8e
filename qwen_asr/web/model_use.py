"""Waiting for the model that a request chooses, without holding a thread, for sockets and REST."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qwen_asr.service.models import ModelUse
    from qwen_asr.service.service import Service


async def wait_until_settled(use: ModelUse, seconds: float) -> bool:
    """Wait until the model is loaded, or cannot be; returns False after `seconds`."""
    if use.settled is None or use.settled.done():
        return True
    done, _ = await asyncio.wait([asyncio.wrap_future(use.settled)], timeout=seconds)
    return bool(done)


@contextlib.asynccontextmanager
async def model_in_use(service: Service, name: str | None) -> AsyncIterator[None]:
    """The model that a client means by `name` is loaded as long as the context lasts.

    Raises NotReady if it is not loaded within `wait_seconds`, and what keeps it from being loaded.
    """
    use = service.use_model(name)
    try:
        await wait_until_settled(use, service.limits.models.wait_seconds)
        use.model.loaded()
        yield
    finally:
        use.leave()
