"""A certificate of an ACME authority, as a file that is always current: got once, and renewed while the server runs."""

from __future__ import annotations

import logging
import random
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509

from qwen_asr.errors import CertificateError
from qwen_asr.tls.acme_client import Authority, write_secret
from qwen_asr.tls.preflight import check_pair

log = logging.getLogger(__name__)

RENEWED_AT = 1 / 3
"""The part of its lifetime that a certificate has left when it is renewed, as Let's Encrypt recommends."""
WARNED_AT = 0.3
"""The part that is left when a certificate that was still not renewed is warned of."""
LONGEST_WAIT_SECONDS = 3600.0
"""How long the clock is trusted to run as expected: a machine may have slept."""
FIRST_BACK_OFF_SECONDS = 600.0
"""Between the first failure and the next try. Let's Encrypt allows five failures an hour for each name."""
LONGEST_BACK_OFF_SECONDS = 6 * 3600.0
SHORTEST_BACK_OFF_SECONDS = 1.0


class AcmeCertificate:
    """Key and certificate for `domains` in one file, `file`, replaced at once when renewed.

    As a context manager it gets the certificate if there is none that can serve, and renews it in a thread. A failed
    renewal leaves the file as it is, and is tried again later and later.
    """

    def __init__(self, authority: Authority, domains: tuple[str, ...]) -> None:
        self._authority = authority
        self._domains = tuple(dict.fromkeys(name.lower() for name in domains))
        self.file: Path = authority.folder / f"{self._domains[0]}.pem"
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        """Raises AcmeError where there is no certificate yet and none is to be had."""
        if self._leaf() is None:
            log.info("Asking %s for a certificate for %s ...", self._authority.name, ", ".join(self._domains))
            self._obtain()
        threading.Thread(target=self._run, name="qwen-asr-acme", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()  # an order under way ends with the process

    def _obtain(self) -> None:
        write_secret(self.file, self._authority.certificate(self._domains))
        check_pair(self.file, None, None, datetime.now(UTC))
        log.info("%s gave a certificate for %s.", self._authority.name, ", ".join(self._domains))

    def _leaf(self) -> x509.Certificate | None:
        """The certificate in the file; None where it cannot serve, or not for all of the names."""
        try:
            leaf = check_pair(self.file, None, None, datetime.now(UTC)).leaf
        except CertificateError:
            return None
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return leaf if set(self._domains) <= set(names.get_values_for_type(x509.DNSName)) else None

    def _run(self) -> None:
        failures = 0
        while not self._ended.wait(back_off_seconds(failures, self._lifetime()) if failures else self._pause()):
            if failures == 0 and self._seconds_left() > 0:
                continue
            try:
                self._obtain()
                failures = 0
            except CertificateError as error:
                failures += 1
                log.warning("The certificate was not renewed, the one before stays: %s", error)
            except Exception:  # whatever it was, the next try must come
                failures += 1
                log.exception("The certificate was not renewed, the one before stays")

    def _pause(self) -> float:
        return min(max(self._seconds_left(), 0.0), LONGEST_WAIT_SECONDS)

    def _seconds_left(self) -> float:
        """To the renewal; 0 or less when it is due."""
        leaf = self._leaf()
        if leaf is None:
            return 0.0
        return (leaf.not_valid_after_utc - datetime.now(UTC) - self._lifetime() * RENEWED_AT).total_seconds()

    def _lifetime(self) -> timedelta:
        leaf = self._leaf()
        return leaf.not_valid_after_utc - leaf.not_valid_before_utc if leaf else timedelta()


def back_off_seconds(failures: int, lifetime: timedelta) -> float:
    """How long to wait after so many failures in a row, 1 or more: twice as long each time, and a quarter by chance.

    Where certificates live for minutes (tests of an authority) the first wait is a part of that.
    """
    first = min(max(lifetime.total_seconds() / 1000, SHORTEST_BACK_OFF_SECONDS), FIRST_BACK_OFF_SECONDS)
    longest = min(first * 2.0 ** (failures - 1), LONGEST_BACK_OFF_SECONDS)
    return longest * random.uniform(0.75, 1.0)  # noqa: S311 - spreads load, keeps no secret
