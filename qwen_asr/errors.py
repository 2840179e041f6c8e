"""Every error that this package raises on purpose, as one tree.

::

    QwenASRError                500  1011  exit 1   anything below
    ├── BadInput                400  1007  exit 2   what was sent or typed cannot be used
    │   ├── AudioError          415                 no audio, empty, or in a format that cannot be read
    │   ├── UnknownLanguage     400                 a language that the model does not know
    │   ├── BadConfig           400  1008           an option or setting out of its range
    │   │   └── HttpsConflict              exit 1   options for HTTPS that exclude or miss one another
    │   ├── BadField            400                 a field of a request that cannot be used
    │   ├── TooLarge            413  1009           more bytes at once than the server takes
    │   └── TimedOut            408  1008           nothing came for too long
    ├── CheckpointError         503        exit 1   the model's weights
    │   ├── CheckpointNotFound                      neither a folder, nor cached, nor to be fetched
    │   ├── WrongArchitecture                       a checkpoint, but not a Qwen3-ASR
    │   └── BadCheckpoint                           a Qwen3-ASR with files missing or broken
    ├── NotReady                503  1013           the checkpoint is still loading
    │   └── ServerStopping           1012           the server is about to end, and likely to be restarted
    ├── Forbidden               403  1008           somebody who may not come in this way
    │   ├── InvalidApiKey       401                 no key or password, or a wrong one
    │   └── WrongHost           421                 a name under which this server does not answer
    ├── LimitExceeded           429  1013           more than the server was told to take on
    ├── StorageError            507                 the server's disk took no more
    ├── StepFailed              500  1011           the model failed on one step; the session goes on
    ├── ConnectionFailed                   exit 1   our client cannot reach its server, or lost it for good
    └── StartupError                       exit 1   the server cannot start
        ├── PortInUse                               somebody else listens there
        ├── CertificateError                        a certificate or key that cannot be used or written
        │   └── AcmeError                           an authority that refused, or was not reached
        └── ShareUnavailable                        no public link is to be had

The columns are the HTTP status, the WebSocket close code and the exit code of the command line; a blank one is
that of the parent. ``str(error)`` is one clear sentence: what was wrong, what was expected, what to do. It is
shown to people as it is, so it holds no traceback and no secret.
"""

from __future__ import annotations


class QwenASRError(Exception):
    """The root. Catch this one to catch every failure that the package foresees."""

    http_status: int = 500
    close_code: int = 1011
    exit_code: int = 1


class BadInput(QwenASRError):
    """What was sent or typed cannot be used; the sender can mend it."""

    http_status = 400
    close_code = 1007
    exit_code = 2


class AudioError(BadInput):
    """Not audio, empty, without an audio stream, or in a format that cannot be read."""

    http_status = 415


class UnknownLanguage(BadInput):
    """A language name or code that the model does not know."""


class BadConfig(BadInput):
    """An option or a session setting that is not one of those allowed."""

    close_code = 1008


class HttpsConflict(BadConfig):
    """Options for HTTPS that exclude each other, or of which one needs another: found with the files' mistakes."""

    exit_code = 1


class BadField(BadInput):
    """A field of a request that is missing or cannot be used; `param` is its name."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class TooLarge(BadInput):
    """An upload or a message of more bytes than the server takes at once."""

    http_status = 413
    close_code = 1009


class TimedOut(BadInput):
    """The sender sent nothing for too long."""

    http_status = 408
    close_code = 1008


class CheckpointError(QwenASRError):
    """The model's weights cannot be had."""

    http_status = 503


class CheckpointNotFound(CheckpointError):
    """Neither a folder, nor in the cache, nor to be fetched."""


class WrongArchitecture(CheckpointError):
    """A checkpoint, but of another architecture than Qwen3-ASR."""


class BadCheckpoint(CheckpointError):
    """A Qwen3-ASR checkpoint with files missing or broken."""


class NotReady(QwenASRError):
    """The checkpoint is still loading; the same request succeeds a little later."""

    http_status = 503
    close_code = 1013


class ServerStopping(NotReady):
    """The server is about to end; the same request succeeds once it, or another one, is there again."""

    close_code = 1012

    def __init__(self, message: str = "The server is restarting: connect again in a moment to go on.") -> None:
        super().__init__(message)


class Forbidden(QwenASRError):
    """Somebody who may not come in, or not this way: a page of another site."""

    http_status = 403
    close_code = 1008


class InvalidApiKey(Forbidden):
    """No API key or password where one is needed, or a wrong one."""

    http_status = 401


class WrongHost(Forbidden):
    """The request names a host that this server is not."""

    http_status = 421


class LimitExceeded(QwenASRError):
    """More sessions, audio or requests than the server was told to take on.

    `retry_after`: seconds after which the same may succeed, where that is known.
    """

    http_status = 429
    close_code = 1013

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StorageError(QwenASRError):
    """What was sent cannot be stored: the disk is full, or may not be written to."""

    http_status = 507


class StepFailed(QwenASRError):
    """The model failed on one step of one utterance; the session itself goes on."""


class ConnectionFailed(QwenASRError):
    """Our own client cannot reach its server, is not let in, or has lost it for good."""


class StartupError(QwenASRError):
    """The server cannot start as it was asked to."""


class PortInUse(StartupError):
    """Somebody else listens on that address and port."""


class CertificateError(StartupError):
    """A certificate or key that cannot be used, read or written."""


class AcmeError(CertificateError):
    """An ACME authority gave no certificate: it refused, or was not reached."""


class ShareUnavailable(StartupError):
    """No public link could be created; the server itself still runs locally."""


def missing_package(module: str) -> str:
    """One sentence for a third-party module that is not installed: only the client comes without the extra `server`."""
    return (
        f"The Python package {module.partition('.')[0]} is not installed: run "
        'pip install "qwen-asr-live[server]", or pip install -r requirements.txt in a checkout.'
    )
