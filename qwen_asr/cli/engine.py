"""`qwen-asr engine`: runs the model in a process of its own, for servers that are given its address with `--engine`."""

from __future__ import annotations

import argparse
import logging
import os
import ssl
import threading
from typing import TYPE_CHECKING, Any

from qwen_asr import logs
from qwen_asr.config.config import Config
from qwen_asr.config.engine_addresses import EngineAddress
from qwen_asr.config.engine_config import EngineConfig
from qwen_asr.config.option_fields import add_options, from_options, unknown_variables

if TYPE_CHECKING:
    from qwen_asr.tls.reloading import ReloadingCertificate

log = logging.getLogger(__name__)

HELP = "run an engine: the model on one GPU, for servers on this machine or others"
EXAMPLES = """examples:
  qwen-asr engine
  qwen-asr serve --engine localhost:9000
      the model in one process, and a server without a model in another
  CUDA_VISIBLE_DEVICES=1 qwen-asr engine --port 9001
      on the second GPU; a server uses both with --engine localhost:9000,localhost:9001, or starts them with --gpus all
  qwen-asr engine --host 0.0.0.0 --generate-self-signed-cert
      for servers on other machines: set QWEN_ASR_API_KEY here and QWEN_ASR_ENGINE_API_KEY there, copy
      certs/qwen_asr_cert.pem, and run
      qwen-asr serve --engine wss://gpu1.example.com:9000 --engine-ca-certs qwen_asr_cert.pem

The port also answers /healthz, /readyz and /metrics. SIGTERM ends the engine once its steps under way are done.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds every option of `EngineConfig`."""
    add_options(parser, EngineConfig)


def run(options: dict[str, Any]) -> int:
    """Serves until the engine is stopped; returns the exit code. Raises QwenASRError."""
    engine_config = from_options(EngineConfig, options, os.environ)
    config = engine_config.config
    logs.configure(config.log_level, config.log_format)
    unknown = set(unknown_variables(EngineConfig, os.environ)) & set(unknown_variables(Config, os.environ))
    if unknown:
        log.warning("The environment has %s, which is not an option: check the spelling.", ", ".join(sorted(unknown)))
    if engine_config.end_with_stdin:
        threading.Thread(target=_end_with_stdin, name="qwen-asr-stdin", daemon=True).start()

    from qwen_asr.engine.device.torch_thread import end_process
    from qwen_asr.redaction import redact_logs
    from qwen_asr.service.engine_process.process import EngineProcess
    from qwen_asr.tls.reloading import ReloadingCertificate
    from qwen_asr.web.access.credentials import Secrets
    from qwen_asr.web.transport.https import choose_certificate
    from qwen_asr.web.transport.uvicorn_server import bind

    redact_logs(config.secrets)
    process = EngineProcess(config, allows=Secrets(config.api_key).__contains__ if config.api_key else None, say=_say)
    if engine_config.uds is not None:
        _say(f"Listening at {EngineAddress(socket=engine_config.uds)}")
        process.run(engine_config.uds)
    else:
        chosen = choose_certificate(config)
        with bind(config.host, config.port) as listening:
            port = listening.getsockname()[1]
            _say(f"Listening at {EngineAddress(config.host, port, chosen is not None)}")
            _warn(config)
            if chosen is None:
                process.run(listening)
            else:
                pair = chosen.checked
                with ReloadingCertificate(pair.certfile, pair.keyfile, pair.password) as certificate:
                    process.run(listening, _always_current(certificate))
    _say("Stopped.")
    return end_process(0)


def _warn(config: Config) -> None:
    from qwen_asr.network import is_loopback

    if is_loopback(config.host):
        return
    if not config.api_key:
        log.warning("Everybody who reaches this address can use the engine: use a private network, or set --api-key.")
    if not config.tls:
        log.warning("Speech and keys travel in plain text to this address: give a certificate, or a private network.")


def _always_current(certificate: ReloadingCertificate) -> ssl.SSLContext:
    """A context that hands each new connection to that of the current certificate."""
    context = certificate.context

    def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = certificate.context

    context.sni_callback = choose  # called for clients without SNI too
    return context


def _end_with_stdin() -> None:
    # Not through `sys.stdin`, whose lock the interpreter wants when it ends.
    while os.read(0, 4096):
        pass
    os._exit(0)  # whoever started the engine is gone, so nobody waits for its answers


def _say(text: str) -> None:
    """Prints a line to standard output. It is not a log record, so no log level hides the address."""
    print(text, flush=True)  # noqa: T201 - see above
