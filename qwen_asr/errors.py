"""The errors that this package raises, as one tree, with their HTTP status, close code and exit code.

::

    QwenASRError                500  1011  exit 1   anything below
    ├── BadInput                400  1007  exit 2   input from a user or client that cannot be used
    │   ├── AudioError                              not audio, empty, or in an unsupported format
    │   ├── UnknownLanguage     400                 a language that the model does not support
    │   ├── BadConfig           400  1008           an option or setting with an invalid value
    │   │   └── HttpsConflict              exit 1   HTTPS options that exclude or require each other
    │   ├── BadField            400                 a request field that cannot be used
    │   ├── OtherResult                             an interrupted result that does not belong to the command
    │   ├── TooLarge            413  1009           more bytes at once than the server accepts
    │   └── TimedOut            408  1008           the client sent nothing for too long
    ├── CheckpointError         503        exit 1   the model's weights cannot be used
    │   ├── CheckpointNotFound                      not a folder, not cached, and not downloadable
    │   ├── WrongArchitecture                       a checkpoint of another model than Qwen3-ASR
    │   └── BadCheckpoint                           a Qwen3-ASR with missing or damaged files
    ├── NotReady                503  1013           the checkpoint is still loading
    │   └── ServerStopping           1012           the server is shutting down, probably to restart
    ├── Forbidden               403  1008           the client is not allowed to do this
    │   ├── InvalidApiKey       401                 the API key or password is missing or wrong
    │   └── WrongHost           421                 the request names a host that this server is not
    ├── LimitExceeded           429  1013           a limit of the server is reached
    ├── StorageError            507                 the server's disk is full or not writable
    ├── StepFailed              500  1011           the model failed on one step; the session continues
    ├── ConnectionFailed                   exit 1   the client cannot reach its server, or lost it
    └── StartupError                       exit 1   the server cannot start
        ├── PortInUse                               another program listens on this port
        ├── CertificateError                        a certificate or key that cannot be used or written
        │   └── AcmeError                           the ACME authority refused or was not reached
        └── ShareUnavailable                        no public link is available

The columns are the HTTP status, the WebSocket close code and the exit code of the command line. An empty column has
the value of the parent. ``str(error)`` is shown to people: it says what was wrong, what was expected and what to do. It
contains no traceback and no secret.
"""

from __future__ import annotations


class QwenASRError(Exception):
    """The base class of all errors of this package."""

    http_status: int = 500
    close_code: int = 1011
    exit_code: int = 1


class BadInput(QwenASRError, ValueError):
    """Input that cannot be used. The user or client can correct it.

    It is a ValueError too, because that is what Qwen's own package raises, and what programs written for it catch.
    """

    http_status = 400
    close_code = 1007
    exit_code = 2


class AudioError(BadInput):
    """Not audio, empty, without an audio stream, or in an unsupported format."""


class UnknownLanguage(BadInput):
    """A language name or code that the model does not support."""


class BadConfig(BadInput):
    """An option or session setting with an invalid value."""

    close_code = 1008


class HttpsConflict(BadConfig):
    """HTTPS options that exclude or require each other. Reported together with mistakes in the files."""

    exit_code = 1


class BadField(BadInput):
    """A request field that is missing or cannot be used. `param` is its name."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class OtherResult(BadInput):
    """An interrupted result of other options, another model or version, or a file that has changed."""


class TooLarge(BadInput):
    """An upload or message with more bytes than the server accepts at once."""

    http_status = 413
    close_code = 1009


class TimedOut(BadInput):
    """The client sent nothing for too long."""

    http_status = 408
    close_code = 1008


class CheckpointError(QwenASRError):
    """The model's weights cannot be found, downloaded or loaded."""

    http_status = 503


class CheckpointNotFound(CheckpointError):
    """Not a folder, not in the cache, and not downloadable."""


class WrongArchitecture(CheckpointError):
    """A checkpoint of another architecture than Qwen3-ASR."""


class BadCheckpoint(CheckpointError):
    """A Qwen3-ASR checkpoint with missing or damaged files."""


class NotReady(QwenASRError):
    """The checkpoint is still loading. The same request will succeed a little later."""

    http_status = 503
    close_code = 1013


class ServerStopping(NotReady):
    """The server is shutting down. The same request will succeed when it has restarted."""

    close_code = 1012

    def __init__(self, message: str = "The server is restarting: reconnect in a moment to continue.") -> None:
        super().__init__(message)


class Forbidden(QwenASRError):
    """The client is not allowed to do this: wrong origin, host or credentials."""

    http_status = 403
    close_code = 1008


class InvalidApiKey(Forbidden):
    """The API key or password is missing or wrong."""

    http_status = 401


class WrongHost(Forbidden):
    """The request names a host that this server is not."""

    http_status = 421


class LimitExceeded(QwenASRError):
    """A limit of the server on sessions, audio or requests is reached.

    retry_after: seconds after which the same request may succeed, or None if unknown.
    """

    http_status = 429
    close_code = 1013

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StorageError(QwenASRError):
    """The upload cannot be stored: the disk is full or not writable."""

    http_status = 507


class StepFailed(QwenASRError):
    """The model failed on one step of one utterance. The session continues."""


class ConnectionFailed(QwenASRError):
    """The client cannot reach its server, is refused, or has lost the connection permanently."""


class StartupError(QwenASRError):
    """The server cannot start with these options."""


class PortInUse(StartupError):
    """Another program listens on this address and port."""


class CertificateError(StartupError):
    """A certificate or key that cannot be used, read or written."""


class AcmeError(CertificateError):
    """The ACME authority issued no certificate: it refused or was not reached."""


class ShareUnavailable(StartupError):
    """No public link is available. The server can still run locally."""


def missing_package(module: str) -> str:
    """One sentence for a third-party module that is not installed: only the client comes without the extra `server`."""
    return (
        f"The Python package {module.partition('.')[0]} is not installed: in the folder of qwen-asr-live run "
        'scripts/run, or pip install ".[server]".'
    )
