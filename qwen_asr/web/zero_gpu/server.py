"""`serve`: what `app.py` runs on a Space with ZeroGPU, in place of `qwen_asr.web.app.serve`."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import httpx
from starlette.middleware import Middleware

from qwen_asr.config.config import Config
from qwen_asr.config.limits import Limits
from qwen_asr.errors import BadConfig, QwenASRError, StartupError
from qwen_asr.redaction import redact_logs
from qwen_asr.web.access.response_headers import SecurityHeaders
from qwen_asr.web.app import say
from qwen_asr.web.page.gradio_import import import_gradio
from qwen_asr.web.page.head_script import HeadScript
from qwen_asr.web.temporary_files import private_folder

if TYPE_CHECKING:
    import gradio as gr

log = logging.getLogger(__name__)

KEPT_SECONDS = 3600.0
"""How long recordings, files and transcripts stay on the disk: as long as somebody may take to press a button."""


def serve(config: Config, limits: Limits | None = None) -> int:
    """Serves until SIGINT or SIGTERM; returns the exit code. Raises StartupError, BadConfig.

    The page says so if the checkpoint cannot be loaded.
    """
    if importlib.util.find_spec("spaces") is None:
        raise StartupError(
            "SPACES_ZERO_GPU is set, but the package spaces, which a Space with ZeroGPU has, is missing: choose other "
            "hardware in the settings of the Space, or run pip install spaces."
        )
    if config.device not in ("auto", "cuda"):
        raise BadConfig(f"--device is {config.device}, but ZeroGPU lends a CUDA device: give auto, or leave it out.")
    redact_logs(config.secrets)
    limits = limits or Limits()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _exit)
    if config.api_key:
        log.warning("--api-key has no effect on ZeroGPU: the page is all that is offered there.")
    with contextlib.ExitStack() as stack:
        stack.enter_context(private_folder(replace(limits.page, abandoned_seconds=KEPT_SECONDS)))
        say("Starting ...")
        page = _load_page(config)
        say(f"The page is on port {config.port}. Live recording is not offered on ZeroGPU.")
        try:
            launch(page, config, limits)
        except (httpx.HTTPError, RuntimeError, OSError) as error:  # of the scheduler's client, and of Gradio's server
            raise StartupError(f"The page could not be started on ZeroGPU ({error}).") from error
    return 0


def _load_page(config: Config) -> gr.Blocks:
    import_gradio()
    import spaces  # replaces torch's functions for CUDA, so it comes before the weights

    from qwen_asr.engine.aligner import load_aligner
    from qwen_asr.engine.checkpoint import load_checkpoint
    from qwen_asr.service.service import DEMO_NOTE, FALLBACK_NOTE
    from qwen_asr.web.zero_gpu.gpu_task import gpu_task
    from qwen_asr.web.zero_gpu.page import build_page, failure_page

    try:
        # On "cuda", so that ZeroGPU writes the weights to disk in a form that each GPU process reads quickly.
        checkpoint = load_checkpoint(config.models[0].path, "cuda", config.dtype, say)
        path = config.aligner_model_path
        aligner = load_aligner(path, "cuda", config.dtype, say) if path is not None else None
    except Exception as error:  # nobody sees the exit code of a Space
        log.error("The checkpoint could not be loaded.", exc_info=error)
        spaces.GPU(_no_task)  # a Space without a function for the GPU is stopped, and its page never shown
        is_known = isinstance(error, QwenASRError)
        return failure_page(str(error) if is_known else "The checkpoint could not be loaded. The log says why.")
    note = f"Model: {checkpoint.source.name}"
    if checkpoint.source.is_demo:
        note = DEMO_NOTE if config.models[0].path == "demo" else FALLBACK_NOTE + DEMO_NOTE
    return build_page(gpu_task(checkpoint, aligner), config, note)


def _no_task() -> None:
    """Stands for the task of a Space that has no model."""


def launch(page: gr.Blocks, config: Config, limits: Limits) -> None:
    """Serves the page with Gradio's own server, until it is stopped: `spaces` hooks `Blocks.launch`."""
    from qwen_asr.web.page.page import CSS, theme

    # Gradio's own green has a contrast of 3.8 with white. WCAG AA asks for 4.5.
    colors = theme().set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
    )
    headers = Middleware(SecurityHeaders, framed=config.on_space, fetches_blobs=True)
    options: dict[str, Any] = {
        "server_name": config.host,
        "server_port": config.port,
        "root_path": config.root_path,
        "auth": [tuple(user.split(":", 1)) for user in config.auth] or None,
        "max_file_size": limits.upload.file_bytes,
        "app_kwargs": {"middleware": [headers, Middleware(HeadScript)]},
        "theme": colors,
        "css_paths": CSS,
        "footer_links": [],
        "run_history": False,
        "pwa": False,
        "ssr_mode": False,
        "mcp_server": False,
        "enable_monitoring": False,
        "show_error": False,
        "share": False,
        "quiet": True,
    }
    page.queue(max_size=config.max_queue or 1).launch(**options)


def _exit(*_: object) -> NoReturn:
    """Ends the process as `sys.exit` does, so that the GPU processes end too: a signal by itself leaves them behind."""
    sys.exit(0)
