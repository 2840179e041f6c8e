"""The certificate that is served now, whoever renews its files: they are looked at every second, and taken over.

What is served is an `ssl.SSLContext` of its own for each certificate, and whoever accepts connections asks for the
current one each time. Nothing of an earlier certificate is left in a fresh context: no key of another type, which
`load_cert_chain` on a living context would go on serving, and no session tickets. Open connections keep theirs.
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
from qwen_asr.tls.preflight import check_pair, load_context

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
RETRY_SECONDS = 30.0
"""How often files that were refused are tried again unchanged: a certificate that is not valid yet becomes so."""
WARNED_AT = 1 / 3
"""The part of its lifetime that a certificate has left when its end is warned of; certbot renews at that point."""
WARN_AGAIN = timedelta(days=1)

_FileState = tuple[int, ...] | None


@dataclass(frozen=True)
class _Served:
    context: ssl.SSLContext
    leaf: x509.Certificate
    files: tuple[_FileState, ...]


@dataclass(frozen=True)
class _Refused:
    files: tuple[_FileState, ...]
    tries: int
    last: datetime


class ReloadingCertificate:
    """A certificate and its key as files, served from the newest state of them that can serve.

    Files that cannot (half-written, broken, expired, of different keys) leave the one before in service; the log says
    it once. As a context manager it watches the files in a thread; `look` is one look at them.
    """

    def __init__(
        self,
        certfile: Path,
        keyfile: Path | None = None,
        password: str | None = None,
        *,
        warned_at: float = WARNED_AT,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Raises CertificateError where the files cannot serve now. `warned_at` is a part of the lifetime, 0 to 1."""
        self._certfile, self._keyfile, self._password = certfile, keyfile, password
        self._warned_at, self._clock = warned_at, clock
        self._refused: _Refused | None = None
        self._reported: tuple[_FileState, ...] | None = None
        self._warned: datetime | None = None
        self._ended = threading.Event()
        self._served = self._read(self._file_states(), clock())

    @property
    def context(self) -> ssl.SSLContext:
        """For the next connection. Never changed once made; another takes its place."""
        return self._served.context

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate that is served now."""
        return self._served.leaf

    def expiry(self) -> datetime:
        """When the certificate that is served now ends; UTC."""
        return self.leaf.not_valid_after_utc

    def warning(self) -> str | None:
        """A sentence about the end of the certificate, once less than a third of its lifetime is left."""
        end, now = self.expiry(), self._clock()
        if end - now >= (end - self.leaf.not_valid_before_utc) * self._warned_at:
            return None
        if now >= end:
            return f"The certificate {self._certfile} expired on {_day(end)}: browsers refuse it; renew it."
        return (
            f"The certificate {self._certfile} ends on {_day(end)}, in {_in_words(end - now)}: renew it; the new files "
            "are picked up without a restart."
        )

    def look(self) -> bool:
        """Looks at the files once, and takes them over if they changed and can serve; returns whether it did."""
        now, files = self._clock(), self._file_states()
        if files == self._served.files:
            self._refused = None
            return False
        before = self._refused if self._refused and self._refused.files == files else None
        # At once, again at the next look (by then whoever writes them has finished), and then now and then.
        if before and before.tries > 1 and now - before.last < timedelta(seconds=RETRY_SECONDS):
            return False
        try:
            self._served = self._read(files, now)
        except CertificateError as error:
            self._refused = _Refused(files, before.tries + 1 if before else 1, now)
            if before and files != self._reported:
                self._reported = files
                log.warning("The certificate before stays in service, since the new one cannot serve: %s", error)
            return False
        self._refused, self._reported, self._warned = None, None, None
        log.info("The new certificate in %s is served now; it ends on %s.", self._certfile, _day(self.expiry()))
        return True

    def warn(self) -> None:
        """Writes `warning` to the log, if there is one and it was not written today."""
        sentence, now = self.warning(), self._clock()
        if sentence and (self._warned is None or now - self._warned >= WARN_AGAIN):
            self._warned = now
            log.warning("%s", sentence)

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="qwen-asr-certificate", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.is_set():
            try:
                self.look()
                self.warn()
            except Exception:  # whatever it was, the next renewal must be seen all the same
                log.exception("Watching the certificate failed")
            self._ended.wait(POLL_SECONDS)

    def _read(self, files: tuple[_FileState, ...], now: datetime) -> _Served:
        # `files` was seen before: should they change while they are read, the next look sees it.
        checked = check_pair(self._certfile, self._keyfile, self._password, now)
        return _Served(load_context(checked), checked.leaf, files)

    def _file_states(self) -> tuple[_FileState, ...]:
        return tuple(_file_state(path) for path in (self._certfile, self._keyfile) if path is not None)


def _file_state(path: Path) -> _FileState:
    """What changes with the content of a file, be it written, replaced, or another one behind a link; None if gone."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _in_words(left: timedelta) -> str:
    hours = left.total_seconds() / 3600
    if hours >= 48:
        return f"{hours / 24:.0f} days"
    return f"{hours:.0f} hours" if hours >= 2 else f"{hours * 60:.0f} minutes"
