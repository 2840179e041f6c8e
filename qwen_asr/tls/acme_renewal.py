"""A certificate from an ACME authority, requested at startup and renewed while the server runs."""

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
from qwen_asr.tls.managed_files import check_folder, check_owner
from qwen_asr.tls.preflight import check_pair

log = logging.getLogger(__name__)

RENEW_FRACTION = 1 / 3
"""The certificate is renewed when this part of its lifetime is left, as Let's Encrypt recommends."""
WARN_FRACTION = 0.3
"""A warning about the expiry is due when this part of the lifetime is left: by then a renewal must have failed."""
MAX_WAIT_SECONDS = 3600.0
"""The longest wait before the remaining time is computed again: a machine that sleeps does not advance the timer."""
FIRST_RETRY_SECONDS = 600.0
"""Between the first failure and the next attempt. Let's Encrypt allows five failures an hour for each name."""
MAX_RETRY_SECONDS = 6 * 3600.0
MIN_RETRY_SECONDS = 1.0


class AcmeCertificate:
    """The key and certificate for `domains` in one file, `file`, which is replaced atomically when renewed.

    Use it as a context manager: entering requests the certificate unless the file holds a usable one, then starts a
    thread that renews it. A failed renewal leaves the file unchanged and is retried at growing intervals.
    """

    def __init__(self, authority: Authority, domains: tuple[str, ...]) -> None:
        self._authority = authority
        self._domains = tuple(dict.fromkeys(name.lower() for name in domains))
        self.file: Path = authority.folder / f"{self._domains[0]}.pem"
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        """Raises AcmeError if there is no usable certificate yet and the authority does not issue one.

        Raises CertificateError if another user can change the file or its folder.
        """
        check_folder(self.file.parent)
        if self.file.exists():
            check_owner(self.file, self.file.stat())
        if self._usable_certificate() is None:
            log.info("Asking %s for a certificate for %s ...", self._authority.name, ", ".join(self._domains))
            self._request()
        threading.Thread(target=self._renew_forever, name="qwen-asr-acme", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()  # an order in progress ends with the process

    def _request(self) -> None:
        write_secret(self.file, self._authority.request_certificate(self._domains))
        check_pair(self.file, None, None, datetime.now(UTC))
        log.info("%s issued a certificate for %s.", self._authority.name, ", ".join(self._domains))

    def _usable_certificate(self) -> x509.Certificate | None:
        """The certificate in the file; None if it cannot be used or lacks one of the names."""
        try:
            leaf = check_pair(self.file, None, None, datetime.now(UTC)).leaf
        except CertificateError:
            return None
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return leaf if set(self._domains) <= set(names.get_values_for_type(x509.DNSName)) else None

    def _renew_forever(self) -> None:
        failures = 0
        while not self._stopped.wait(retry_delay(failures, self._lifetime()) if failures else self._next_wait()):
            if failures == 0 and self._seconds_until_renewal() > 0:
                continue
            try:
                self._request()
                failures = 0
            except CertificateError as error:
                failures += 1
                log.warning("The certificate was not renewed; the current one stays in use: %s", error)
            except Exception:  # an unexpected error must not end the retries
                failures += 1
                log.exception("The certificate was not renewed; the current one stays in use")

    def _next_wait(self) -> float:
        return min(max(self._seconds_until_renewal(), 0.0), MAX_WAIT_SECONDS)

    def _seconds_until_renewal(self) -> float:
        """0 or less when the renewal is due."""
        leaf = self._usable_certificate()
        if leaf is None:
            return 0.0
        return (leaf.not_valid_after_utc - datetime.now(UTC) - self._lifetime() * RENEW_FRACTION).total_seconds()

    def _lifetime(self) -> timedelta:
        leaf = self._usable_certificate()
        return leaf.not_valid_after_utc - leaf.not_valid_before_utc if leaf else timedelta()


def retry_delay(failures: int, lifetime: timedelta) -> float:
    """Seconds to wait after `failures` (1 or more) in a row: exponential backoff, shortened at random by up to 25 %.

    For a certificate that lives only minutes (test authorities) the first delay is a thousandth of its lifetime.
    """
    first = min(max(lifetime.total_seconds() / 1000, MIN_RETRY_SECONDS), FIRST_RETRY_SECONDS)
    longest = min(first * 2.0 ** (failures - 1), MAX_RETRY_SECONDS)
    return longest * random.uniform(0.75, 1.0)  # noqa: S311 - spreads load, keeps no secret
