"""An ACME authority (RFC 8555), by the certbot project's `acme` library: an account, and certificates by HTTP-01.

That library is an optional extra: nothing of it is imported before somebody wants it. Its requests trust what the
system's certificates say, or the file that REQUESTS_CA_BUNDLE or SSL_CERT_FILE names.
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
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from qwen_asr.errors import AcmeError, StartupError
from qwen_asr.tls.writing import atomic_write

if TYPE_CHECKING:
    from acme.client import ClientV2
    from acme.messages import OrderResource
    from requests import Response

log = logging.getLogger(__name__)

ORDER_SECONDS = 120.0
"""How long the authority may take over one order; Let's Encrypt takes some five seconds."""
REQUEST_SECONDS = 30
NONCE_TRIES = 10
"""How often a request is sent that is refused for its nonce alone. RFC 8555, section 6.5, wants another try; the acme
library makes one, and an authority with several servers may refuse that as well."""


def check_installed() -> None:
    """Raises StartupError where the library is missing."""
    if importlib.util.find_spec("acme") is None:
        raise StartupError(
            "--acme-domain needs the acme package, which is not installed: run pip install -r requirements-acme.txt, "
            "or get the certificate with certbot and give it by --ssl-certfile."
        )


class Authority:
    """One authority and our account there. `challenge` is what is to be answered while `certificate` runs."""

    def __init__(self, directory: str, email: str | None, folder: Path) -> None:
        """`folder` keeps what belongs to each authority apart; `directory` is the URL that all others are found by."""
        self._directory, self._email = directory, email
        self.name = urlsplit(directory).hostname or directory
        self.folder = folder / urlsplit(directory).netloc.replace(":", "_")
        self._authorizations: dict[str, bytes] = {}

    def challenge(self, token: str) -> bytes | None:
        """The key authorization that the authority wants to read for a token (RFC 8555, section 8.3)."""
        return self._authorizations.get(token)

    def certificate(self, domains: tuple[str, ...]) -> bytes:
        """A new key on P-256 and its certificate with the chain, PEM, for `domains`. Takes seconds to minutes.

        Raises AcmeError with the authority's own words where it refuses, or with the reason where it is not reached.
        """
        with self._failures_in_words(domains):
            from acme import crypto_util

            key = _pem(ec.generate_private_key(ec.SECP256R1()))
            client = self._client()
            order = client.new_order(crypto_util.make_csr(key, list(domains)))
            try:
                self._answer_challenges(client, order)
                # The library's deadlines are in local time.
                deadline = datetime.now() + timedelta(seconds=ORDER_SECONDS)
                chain: str = client.poll_and_finalize(order, deadline).fullchain_pem
            finally:
                self._authorizations.clear()
            return key + chain.encode()

    def _client(self) -> ClientV2:
        from acme import client, errors, messages
        from josepy.jwa import ES256
        from josepy.jwk import JWKEC

        class Network(client.ClientNetwork):  # here, as the library is imported only where it is wanted
            def post(self, *args: Any, **kwargs: Any) -> Response:
                for _ in range(NONCE_TRIES - 1):
                    try:
                        return super().post(*args, **kwargs)
                    except messages.Error as error:
                        if error.code != "badNonce":
                            raise
                return super().post(*args, **kwargs)

        key = JWKEC(key=self._account_key())
        net = Network(key, alg=ES256, user_agent="qwen-asr-live", timeout=REQUEST_SECONDS, verify_ssl=_trusted())
        found = client.ClientV2(client.ClientV2.get_directory(self._directory, net), net)
        wish = messages.NewRegistration.from_data(email=self._email, terms_of_service_agreed=True)
        try:
            found.new_account(wish)
        except errors.ConflictError as known:  # the authority knows the key, and tells the account that it belongs to
            net.account = messages.RegistrationResource(body=wish, uri=known.location)
        return found

    def _account_key(self) -> ec.EllipticCurvePrivateKey:
        path = self.folder / "account.pem"
        with contextlib.suppress(FileNotFoundError):
            try:
                key = load_pem_private_key(path.read_bytes(), None)
            except (ValueError, TypeError):
                key = None
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise AcmeError(f"{path} is no account key: delete it or move it away to have a new account made.")
            return key
        key = ec.generate_private_key(ec.SECP256R1())
        write_secret(path, _pem(key))
        return key

    def _answer_challenges(self, client: ClientV2, order: OrderResource) -> None:
        from acme import challenges, messages

        for authorization in order.authorizations:
            if authorization.body.status == messages.STATUS_VALID:
                continue  # the authority remembers it from an earlier order
            offered = [body for body in authorization.body.challenges if isinstance(body.chall, challenges.HTTP01)]
            if not offered:
                raise AcmeError(f"{self.name} offers no HTTP-01 challenge, the only one that is known here.")
            response, validation = offered[0].response_and_validation(client.net.key)
            self._authorizations[offered[0].chall.encode("token")] = validation.encode()
            client.answer_challenge(offered[0], response)

    @contextlib.contextmanager
    def _failures_in_words(self, domains: tuple[str, ...]) -> Iterator[None]:
        import requests
        from acme import errors

        names = ", ".join(domains)
        try:
            yield
        except errors.TimeoutError:
            raise AcmeError(f"{self.name} did not decide on {names} within {ORDER_SECONDS:g} s: try later.") from None
        except errors.Error as error:
            log.debug("refused", exc_info=True)
            raise AcmeError(f"{self.name} refused a certificate for {names}: {_reason(error)}") from None
        except (requests.RequestException, OSError, ValueError, KeyError) as error:
            # The last two are what the library makes of an answer that is none of ACME's.
            log.debug("not reached", exc_info=True)
            raise AcmeError(f"{self._directory} gave no certificate for {names}: {_root_of(error)}") from None


def _trusted() -> Any:
    """What the library's `verify_ssl` takes: a file of certificates, or True for requests' own choice of one."""
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or True


def _root_of(error: BaseException) -> str:
    """What the system said, below all that libraries wrapped it in: "Connection refused"."""
    found = str(error) or type(error).__name__
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, OSError) and below.strerror:
            found = below.strerror
        below = below.__cause__ or below.__context__
    return found


def _reason(error: Any) -> str:
    """The authority's own sentences, of whatever the library raised them in."""
    from acme import errors, messages

    if isinstance(error, errors.ValidationError):
        found = [challenge.error for failed in error.failed_authzrs for challenge in failed.body.challenges]
        return " ".join(dict.fromkeys(_reason(one) for one in found if one is not None))
    if isinstance(error, errors.IssuanceError):
        return _reason(error.error)
    if isinstance(error, messages.Error):
        more = [_reason(one) for one in error.subproblems or ()]
        return " ".join([error.detail or error.title or str(error.typ), *more])
    return str(error)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write_secret(path: Path, content: bytes) -> None:
    """Puts `content` in the place of `path` at once; nobody but the owner may read it, from its birth.

    Raises AcmeError.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic_write(path, content, mode=0o600)
    except OSError as error:
        raise AcmeError(f"{path} cannot be written: {error.strerror}. Make its folder writable.") from error
