"""A client for ACME authorities such as Let's Encrypt (RFC 8555): an account, and certificates by HTTP-01.

It uses the certbot project's `acme` library. That library is an optional extra, so it is imported only when a
certificate is requested. Its HTTPS requests trust the system's root certificates, or the file that REQUESTS_CA_BUNDLE
or SSL_CERT_FILE names.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from qwen_asr.errors import AcmeError, StartupError
from qwen_asr.network import split_url
from qwen_asr.tls.managed_files import atomic_write, make_folder, read_own

if TYPE_CHECKING:
    from acme.client import ClientV2
    from acme.messages import OrderResource
    from requests import Response

log = logging.getLogger(__name__)

ORDER_TIMEOUT_SECONDS = 120.0
"""How long one order may take; Let's Encrypt needs about five seconds."""
REQUEST_TIMEOUT_SECONDS = 30
MAX_NONCE_ATTEMPTS = 10
"""How often a request is sent when the authority rejects only its nonce. RFC 8555, section 6.5, requires a retry. The
acme library retries once, which an authority with several servers may reject as well."""


def check_installed() -> None:
    """Raises StartupError if the `acme` library is missing."""
    if importlib.util.find_spec("acme") is None:
        raise StartupError(
            "--acme-domain needs the acme package, which is not installed: run pip install -r requirements-acme.txt, "
            "or get the certificate with certbot and pass it with --ssl-certfile."
        )


class Authority:
    """One ACME authority and our account there.

    While `request_certificate` runs, the HTTP server has to answer challenges with `key_authorization`.
    """

    def __init__(self, directory: str, email: str | None, folder: Path) -> None:
        """`directory` is the URL of the ACME directory. Each authority gets its own subfolder of `folder`."""
        self._directory, self._email = directory, email
        self.name = split_url(directory).hostname or directory
        self.folder = folder / split_url(directory).netloc.replace(":", "_")
        self._key_authorizations: dict[str, bytes] = {}

    def key_authorization(self, token: str) -> bytes | None:
        """The response to the HTTP-01 challenge `token` (RFC 8555, section 8.3); None for an unknown token."""
        return self._key_authorizations.get(token)

    def request_certificate(self, domains: tuple[str, ...]) -> bytes:
        """A new P-256 key and its certificate chain for `domains`, as PEM. Takes seconds to minutes.

        Raises AcmeError with the authority's own explanation if it refuses, or with the reason if it cannot be reached.
        """
        with self._library_errors_translated(domains):
            from acme import crypto_util

            key = _key_pem(ec.generate_private_key(ec.SECP256R1()))
            client = self._client()
            order = client.new_order(crypto_util.make_csr(key, list(domains)))
            try:
                self._answer_challenges(client, order)
                # The library compares deadlines with naive local time.
                deadline = datetime.now() + timedelta(seconds=ORDER_TIMEOUT_SECONDS)
                chain: str = client.poll_and_finalize(order, deadline).fullchain_pem
            finally:
                self._key_authorizations.clear()
            return key + chain.encode()

    def _client(self) -> ClientV2:
        from acme import client, errors, messages
        from josepy.jwa import ES256
        from josepy.jwk import JWKEC

        class Network(client.ClientNetwork):  # defined here because its base class is imported lazily
            def post(self, *args: Any, **kwargs: Any) -> Response:
                for _ in range(MAX_NONCE_ATTEMPTS - 1):
                    try:
                        return super().post(*args, **kwargs)
                    except messages.Error as error:
                        if error.code != "badNonce":
                            raise
                return super().post(*args, **kwargs)

        key = JWKEC(key=self._account_key())
        network = Network(
            key, alg=ES256, user_agent="qwen-asr-live", timeout=REQUEST_TIMEOUT_SECONDS, verify_ssl=_ca_bundle()
        )
        acme = client.ClientV2(client.ClientV2.get_directory(self._directory, network), network)
        registration = messages.NewRegistration.from_data(email=self._email, terms_of_service_agreed=True)
        try:
            acme.new_account(registration)
        except errors.ConflictError as conflict:  # the authority knows this key and reports the URL of its account
            network.account = messages.RegistrationResource(body=registration, uri=conflict.location)
        return acme

    def _account_key(self) -> ec.EllipticCurvePrivateKey:
        path = self.folder / "account.pem"
        with contextlib.suppress(FileNotFoundError):
            try:
                key = load_pem_private_key(read_own(path), None)
            except (ValueError, TypeError):
                key = None
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise AcmeError(f"{path} is not an account key: delete it or move it away to register a new account.")
            return key
        key = ec.generate_private_key(ec.SECP256R1())
        write_secret(path, _key_pem(key))
        return key

    def _answer_challenges(self, client: ClientV2, order: OrderResource) -> None:
        from acme import challenges, messages

        for authorization in order.authorizations:
            if authorization.body.status == messages.STATUS_VALID:
                continue  # still valid from an earlier order
            offered = [body for body in authorization.body.challenges if isinstance(body.chall, challenges.HTTP01)]
            if not offered:
                raise AcmeError(f"{self.name} offers no HTTP-01 challenge, the only kind that this server can answer.")
            response, validation = offered[0].response_and_validation(client.net.key)
            self._key_authorizations[offered[0].chall.encode("token")] = validation.encode()
            client.answer_challenge(offered[0], response)

    @contextlib.contextmanager
    def _library_errors_translated(self, domains: tuple[str, ...]) -> Iterator[None]:
        """Turns the errors of the acme library and of its HTTP client into AcmeError."""
        import requests
        from acme import errors

        names = ", ".join(domains)
        try:
            yield
        except errors.TimeoutError:
            raise AcmeError(
                f"{self.name} did not complete the order for {names} within {ORDER_TIMEOUT_SECONDS:g} s: try again "
                "later."
            ) from None
        except errors.Error as error:
            log.debug("The ACME authority refused the order", exc_info=True)
            raise AcmeError(f"{self.name} refused a certificate for {names}: {_problem_text(error)}") from None
        except (requests.RequestException, OSError, ValueError, KeyError) as error:
            # The library raises ValueError and KeyError for a response that is not ACME.
            log.debug("The ACME authority could not be reached", exc_info=True)
            raise AcmeError(f"{self._directory} gave no certificate for {names}: {_root_cause(error)}") from None


def _ca_bundle() -> Any:
    """The value for the library's `verify_ssl`: a file of root certificates, or True for the default of `requests`."""
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or True


def _root_cause(error: BaseException) -> str:
    """The operating system's message from the bottom of a chain of exceptions, such as "Connection refused"."""
    text = str(error) or type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            text = cause.strerror
        cause = cause.__cause__ or cause.__context__
    return text


def _problem_text(error: Any) -> str:
    """The authority's own sentences, from any error of the library."""
    from acme import errors, messages

    if isinstance(error, errors.ValidationError):
        problems = [challenge.error for failed in error.failed_authzrs for challenge in failed.body.challenges]
        return " ".join(dict.fromkeys(_problem_text(problem) for problem in problems if problem is not None))
    if isinstance(error, errors.IssuanceError):
        return _problem_text(error.error)
    if isinstance(error, messages.Error):
        details = [_problem_text(problem) for problem in error.subproblems or ()]
        return " ".join([error.detail or error.title or str(error.typ), *details])
    return str(error)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write_secret(path: Path, content: bytes) -> None:
    """Writes a file atomically; only its owner can ever read it. Creates the folder. Raises AcmeError."""
    try:
        make_folder(path.parent)
        atomic_write(path, content, mode=0o600)
    except OSError as error:
        raise AcmeError(f"{path} cannot be written: {error.strerror}. Make its folder writable.") from error
