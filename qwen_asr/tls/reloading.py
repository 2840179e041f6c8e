"""Reloads a renewed certificate without a restart, by checking its files every second.

Each certificate gets its own `ssl.SSLContext`, and the acceptor asks for the current one for each connection. So a new
context contains nothing of an earlier certificate: neither a key of another type, which `load_cert_chain` on a context
in use would keep serving, nor session tickets. Open connections keep their context.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509

from qwen_asr.errors import CertificateError
from qwen_asr.tls.checks import WARN_FRACTION
from qwen_asr.tls.context import load_context
from qwen_asr.tls.preflight import check_pair

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""How often the files are checked for changes."""
RETRY_SECONDS = 30.0
"""How often rejected files are tried again although unchanged: a certificate may become valid in the meantime."""
WARN_INTERVAL = timedelta(days=1)

_FileState = tuple[int, ...] | None


@dataclass(frozen=True)
class _Served:
    context: ssl.SSLContext
    leaf: x509.Certificate
    files: tuple[_FileState, ...]


@dataclass(frozen=True)
class _Rejected:
    files: tuple[_FileState, ...]
    attempts: int
    last_attempt: datetime


class ReloadingCertificate:
    """The certificate and key in files, always in the newest valid version.

    If the files become invalid (half-written, damaged, expired, of different keys), the previous version stays in use
    and one warning is logged. As a context manager it checks the files in a thread; `reload_if_changed` is one check.
    """

    def __init__(
        self,
        certfile: Path,
        keyfile: Path | None = None,
        password: str | None = None,
        *,
        warn_fraction: float = WARN_FRACTION,
        poll_seconds: float = POLL_SECONDS,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Raises CertificateError if the files cannot be used. `warn_fraction`: see `checks.WARN_FRACTION`; 0 to 1."""
        self._certfile, self._keyfile, self._password = certfile, keyfile, password
        self._warn_fraction, self._poll_seconds, self._clock = warn_fraction, poll_seconds, clock
        self._rejected: _Rejected | None = None
        self._reported: tuple[_FileState, ...] | None = None
        self._last_warning: datetime | None = None
        self._stopped = threading.Event()
        self._served = self._read(self._file_states(), clock())

    @property
    def context(self) -> ssl.SSLContext:
        """The context for the next connection. It is never modified, only replaced."""
        return self._served.context

    @property
    def leaf(self) -> x509.Certificate:
        """The current certificate."""
        return self._served.leaf

    def expiry(self) -> datetime:
        """When the current certificate expires; UTC."""
        return self.leaf.not_valid_after_utc

    def warning(self) -> str | None:
        """A sentence about the expiry once less than `warn_fraction` of the lifetime is left; otherwise None."""
        end, now = self.expiry(), self._clock()
        if end - now >= (end - self.leaf.not_valid_before_utc) * self._warn_fraction:
            return None
        if now >= end:
            return f"The certificate {self._certfile} expired on {_utc(end)}: browsers reject it; renew it."
        return (
            f"The certificate {self._certfile} expires on {_utc(end)}, in {_duration(end - now)}: renew it; the new "
            "files are loaded without a restart."
        )

    def reload_if_changed(self) -> bool:
        """Loads the files if they have changed and are valid; returns whether it did."""
        now, files = self._clock(), self._file_states()
        if files == self._served.files:
            self._rejected = None
            return False
        before = self._rejected if self._rejected and self._rejected.files == files else None
        # Changed files are tried at once, again at the next check (they may have been half-written), then less often.
        if before and before.attempts > 1 and now - before.last_attempt < timedelta(seconds=RETRY_SECONDS):
            return False
        try:
            self._served = self._read(files, now)
        except CertificateError as error:
            self._rejected = _Rejected(files, before.attempts + 1 if before else 1, now)
            if before and files != self._reported:
                self._reported = files
                log.warning("The previous certificate stays in use, because the new one cannot be used: %s", error)
            return False
        self._rejected, self._reported, self._last_warning = None, None, None
        log.info("Loaded the new certificate in %s; it expires on %s.", self._certfile, _utc(self.expiry()))
        return True

    def log_warning(self) -> None:
        """Logs `warning()` if there is one, at most once a day."""
        sentence, now = self.warning(), self._clock()
        if sentence and (self._last_warning is None or now - self._last_warning >= WARN_INTERVAL):
            self._last_warning = now
            log.warning("%s", sentence)

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="qwen-asr-certificate", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.is_set():
            try:
                self.reload_if_changed()
                self.log_warning()
            except Exception:  # an unexpected error must not stop the thread
                log.exception("Checking the certificate's files failed")
            self._stopped.wait(self._poll_seconds)

    def _read(self, files: tuple[_FileState, ...], now: datetime) -> _Served:
        # `files` was taken before reading: if they change meanwhile, the next check notices.
        checked = check_pair(self._certfile, self._keyfile, self._password, now)
        return _Served(load_context(checked), checked.leaf, files)

    def _file_states(self) -> tuple[_FileState, ...]:
        return tuple(_file_state(path) for path in (self._certfile, self._keyfile) if path is not None)


def _file_state(path: Path) -> _FileState:
    """Changes when the file is written or replaced, or a link points to another file; None if it does not exist."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _duration(left: timedelta) -> str:
    hours = left.total_seconds() / 3600
    if hours >= 48:
        return f"{hours / 24:.0f} days"
    return f"{hours:.0f} hours" if hours >= 2 else f"{hours * 60:.0f} minutes"
