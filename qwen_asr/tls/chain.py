"""From a certificate up to its authority: which of the certificates in a file vouch for it, in which order."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import NameOID

from qwen_asr.tls.pem import UNREADABLE


@dataclass(frozen=True)
class Chain:
    """`certificates` stand behind the leaf, each signing the one before.

    `reordered`: the file holds leaf and chain in another order, or something between. `left_out`: how many other
    certificates it holds. `missing`: the name of who signed the last one, where that is neither in the file nor itself.
    """

    certificates: tuple[x509.Certificate, ...]
    reordered: bool
    left_out: int
    missing: str | None


def sort_chain(leaf: x509.Certificate, found: tuple[x509.Certificate, ...]) -> Chain:
    """The chain of `leaf` among the certificates of its file."""
    rest = [certificate for certificate in dict.fromkeys(found) if certificate != leaf]
    chain: list[x509.Certificate] = []
    last = leaf
    while not signed_by(last, last):
        signer = next((other for other in rest if signed_by(last, other)), None)
        if signer is None:
            break
        rest.remove(signer)
        chain.append(signer)
        last = signer
    missing = None if signed_by(last, last) else common_name(last.issuer)
    return Chain(tuple(chain), (leaf, *chain) != found, len(rest), missing)


def is_self_issued(certificate: x509.Certificate) -> bool:
    """Whether it names itself as its issuer (RFC 5280, 3.2); `signed_by` says whether that is true."""
    return certificate.issuer == certificate.subject


def signed_by(certificate: x509.Certificate, signer: x509.Certificate) -> bool:
    """Whether `signer` signed `certificate`; it may be the same."""
    if certificate.issuer != signer.subject:
        return False
    try:
        certificate.verify_directly_issued_by(signer)
    except UNREADABLE:
        return False
    return True


def common_name(name: x509.Name) -> str:
    """The common name, or all of the name where it has none."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    text = found[0].value if found else name.rfc4514_string()
    return text if isinstance(text, str) else text.decode("utf-8", "replace")
