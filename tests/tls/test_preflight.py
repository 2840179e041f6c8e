"""Checking a certificate and its key: valid pairs load, with warnings; invalid ones raise CertificateError."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwen_asr.errors import CertificateError
from qwen_asr.tls.addresses import names_of, own_names
from qwen_asr.tls.checks import certified_urls, matches_machine
from qwen_asr.tls.context import load_context
from qwen_asr.tls.preflight import CheckedPair, check_pair
from tests.support.certificates import DAY, NOW, PASSWORD, Chained, Issued, issue, new_ec, put

# The names of this machine, so that there is no warning about names.
OWN = (*own_names().dns, *(str(address) for address in own_names().ips))


def check(folder: Path, certificate: bytes, key: bytes | None = None, password: str | None = None) -> CheckedPair:
    put(folder, certificate, key)
    return check_pair(folder / "cert.pem", folder / "key.pem" if key else None, password, NOW)


def served(checked: CheckedPair, *trusted: Issued) -> list[bytes]:
    """The certificate that a client receives, as DER; the client verifies it if `trusted` roots are given."""
    context = load_context(checked)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    if trusted:
        client.load_verify_locations(cadata="".join(one.pem.decode() for one in trusted))
    else:
        client.verify_mode = ssl.CERT_NONE
    client_end, server_end = socket.socketpair()

    def serve() -> None:
        try:
            with context.wrap_socket(server_end, server_side=True):
                pass
        except OSError:
            server_end.close()  # the client rejected the certificate and raises; the test fails there

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client_end, client.wrap_socket(client_end) as connection:
            assert connection.version() == "TLSv1.3"
            return [connection.getpeercert(binary_form=True) or b""]
    finally:
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: rsa.generate_private_key(65537, 2048), "RSA 2048"),
        (new_ec, "EC P-256"),
        (lambda: ec.generate_private_key(ec.SECP384R1()), "EC P-384"),
    ],
    ids=["RSA", "P-256", "P-384"],
)
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("password", [None, PASSWORD])
def test_every_supported_key_type_and_format_loads(
    tmp_path: Path, make: Callable[[], object], kind: str, form: PrivateFormat, password: str | None
) -> None:
    issued = issue(key=make(), names=OWN)
    checked = check(tmp_path, issued.pem, issued.key_pem(password, form), password)
    assert checked.key_type == kind
    assert checked.names == OWN
    assert checked.warnings == ()
    assert served(checked) == [issued.certificate.public_bytes(Encoding.DER)]
    assert PASSWORD not in repr(checked)


def test_a_password_for_a_plain_key_is_ignored(tmp_path: Path) -> None:
    issued = issue()
    assert served(check(tmp_path, issued.pem, issued.key_pem(), "not needed"))


def test_certificate_and_key_may_be_in_one_file_in_any_order(tmp_path: Path) -> None:
    issued = issue()
    key = issued.key_pem()
    for content in (issued.pem + key, key + issued.pem, b"Bag Attributes\n" + issued.pem + key):
        assert served(check(tmp_path, content))


def test_symbolic_links_in_the_layout_of_certbot(tmp_path: Path) -> None:
    issued = Chained()
    live, archive = tmp_path / "live" / "asr.example.com", tmp_path / "archive" / "asr.example.com"
    live.mkdir(parents=True)
    archive.mkdir(parents=True)
    for name, content in (("fullchain", issued.leaf.pem + issued.middle.pem), ("privkey", issued.leaf.key_pem())):
        (archive / f"{name}1.pem").write_bytes(content)
        (live / f"{name}.pem").symlink_to(f"../../archive/asr.example.com/{name}1.pem")
    checked = check_pair(live / "fullchain.pem", live / "privkey.pem", None, NOW)
    assert served(checked, issued.root)


@pytest.mark.parametrize("order", ["leaf middle", "middle leaf", "root leaf middle", "leaf stray middle leaf"])
def test_a_chain_is_served_in_the_right_order(tmp_path: Path, order: str, program: Callable[[str], str]) -> None:
    issued = Chained()
    parts = {"leaf": issued.leaf, "middle": issued.middle, "root": issued.root, "stray": issue("stray")}
    checked = check(tmp_path, b"".join(parts[name].pem for name in order.split()), issued.leaf.key_pem())
    assert served(checked, issued.root) == [issued.leaf.certificate.public_bytes(Encoding.DER)]
    assert [one for one in checked.chain if one != issued.root.certificate] == [issued.middle.certificate]
    warnings = " ".join(checked.warnings)
    assert ("served in the right order" in warnings) == (order in ("middle leaf", "root leaf middle"))
    assert ("1 certificate(s) that do not belong to its chain" in warnings) == ("stray" in order)


def test_a_missing_intermediate_is_a_warning(tmp_path: Path) -> None:
    issued = Chained()
    checked = check(tmp_path, issued.leaf.pem, issued.leaf.key_pem())
    assert any("lacks the certificate of “Middle”" in warning for warning in checked.warnings)
    # Devices have “Root”: a chain up to it is complete.
    whole = check(tmp_path, issued.leaf.pem + issued.middle.pem + issued.root.pem, issued.leaf.key_pem())
    assert not any("lacks" in warning for warning in whole.warnings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"begins": NOW - 61 * DAY, "ends": NOW + 29 * DAY}, "expires in 29 days, on .*: renew it"),
        ({"begins": NOW - 89 * DAY, "ends": NOW + DAY / 2}, "expires in 12 hours"),
        ({"ends": NOW + 3650 * DAY}, "Apple's devices accept at most 825"),
        (
            {"names": ["asr.example.com"]},
            "is for asr.example.com, and none of these is a name or address of this machine",
        ),
        ({"names": []}, "contains no names"),
        ({"key": ec.generate_private_key(ec.SECP521R1())}, "P-521, which Chromium does not accept"),
    ],
    ids=["a third", "hours", "ten years", "another machine", "no name", "P-521"],
)
def test_problems_that_do_not_prevent_serving_are_warnings(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    issued = issue(**{"names": OWN, **changes})  # type: ignore[arg-type]  # of issue's types
    [warning] = check(tmp_path, issued.pem, issued.key_pem()).warnings
    assert re.search(message, warning)


def test_a_world_readable_key_is_a_warning(tmp_path: Path) -> None:
    issued = issue(names=OWN)
    put(tmp_path, issued.pem, issued.key_pem())
    (tmp_path / "key.pem").chmod(0o644)
    [warning] = check_pair(tmp_path / "cert.pem", tmp_path / "key.pem", None, NOW).warnings
    assert "chmod 600" in warning


def test_names_that_match_the_machine() -> None:
    own = names_of([ip_address("192.0.2.7")], ["box.example.com", "box"])
    assert matches_machine(["192.0.2.7"], own)
    assert matches_machine(["*.example.com"], own)
    assert matches_machine(["BOX.example.com"], own)
    assert matches_machine(["localhost"], own)
    assert matches_machine(["127.0.0.1"], own)
    assert not matches_machine(["*.com", "example.com", "*.box.example.com"], own)


@pytest.mark.parametrize(
    ("names", "urls"),
    [
        (["localhost", "127.0.0.1"], ["https://localhost"]),
        (["192.0.2.7"], ["https://192.0.2.7"]),
        (["asr.example.com", "localhost"], ["https://asr.example.com", "https://localhost"]),
        (["asr.example.com"], ["https://asr.example.com", "https://localhost", "https://192.0.2.7"]),
        (["*.example.com"], ["https://localhost", "https://192.0.2.7"]),
    ],
    ids=["this machine", "its address", "a name too", "a name alone", "a pattern alone"],
)
def test_only_urls_that_match_the_certificate_are_announced(names: list[str], urls: list[str]) -> None:
    assert list(certified_urls(names, 443, ["https://localhost", "https://192.0.2.7"])) == urls


def test_a_certificate_for_localhost_matches_this_machine(tmp_path: Path) -> None:
    issued = issue(names=["localhost", "127.0.0.1"])
    assert check(tmp_path, issued.pem, issued.key_pem()).warnings == ()


def test_the_key_of_an_intermediate_is_not_the_server_key(tmp_path: Path) -> None:
    issued = Chained()
    with pytest.raises(CertificateError, match="do not belong together"):
        check(tmp_path, issued.leaf.pem + issued.middle.pem, issued.middle.key_pem())


@pytest.mark.slow
def test_certificates_made_by_the_openssl_command_load(tmp_path: Path, program: Callable[[str], str]) -> None:
    openssl = program("openssl")
    for kind in (["rsa:2048"], ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]):
        command = [openssl, "req", "-x509", "-newkey", *kind, "-days", "90", "-subj", "/CN=localhost"]
        names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        files: list[str | Path] = ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"]
        subprocess.run([*command, *names, *files, "-passout", "pass:secret"], check=True, capture_output=True)
        assert served(check_pair(tmp_path / "cert.pem", tmp_path / "key.pem", "secret", NOW + DAY))


# --- arbitrary content

PARTS = [part for issued in [Chained()] for part in (issued.leaf.pem, issued.middle.pem, issued.leaf.key_pem())]
LOCKED = issue().key_pem(PASSWORD)
PIECES = st.one_of(
    st.sampled_from([*PARTS, LOCKED, b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n", b"\n", b"\x00"]),
    st.binary(max_size=40),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """PEM text with some bytes changed, removed or inserted; mostly inside the base64."""
    text = bytearray(draw(st.sampled_from([*PARTS, PARTS[0] + PARTS[1], PARTS[0] + PARTS[2]])))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text) - 1))
        new = draw(st.sampled_from(b"ABCDwxyz0189+/=-\n "))
        kind = draw(st.integers(0, 3))
        if kind == 0:
            text[at : at + draw(st.integers(1, 80))] = b""
        elif kind == 1:
            text.insert(at, new)
        else:
            text[at] = new
        if not text:
            return b""
    return bytes(text)


@pytest.mark.slow
@given(
    certificate=st.one_of(mutated(), st.lists(PIECES, max_size=6).map(b"".join), st.just(PARTS[0])),
    key=st.one_of(st.none(), mutated(), st.lists(PIECES, max_size=4).map(b"".join), st.just(PARTS[2])),
    password=st.sampled_from([None, PASSWORD, "wrong", "x" * 5000]),
)
@settings(deadline=None, max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_files_give_an_error_or_a_working_context(
    tmp_path: Path, certificate: bytes, key: bytes | None, password: str | None
) -> None:
    (tmp_path / "key.pem").unlink(missing_ok=True)
    message = "It works."
    try:
        checked = check(tmp_path, certificate, key, password)
        assert served(checked) == [checked.leaf.public_bytes(Encoding.DER)]
    except CertificateError as error:
        message = str(error)
    assert message.endswith(".")
    assert "\n" not in message


@given(st.integers(-400, 400))
@settings(deadline=None, max_examples=30)
def test_validity_depends_only_on_the_time(tmp_path_factory: pytest.TempPathFactory, days: int) -> None:
    issued = _LASTING
    folder = tmp_path_factory.getbasetemp()
    put(folder, issued.pem, issued.key_pem())
    now: datetime = NOW + days * DAY
    try:
        message = " ".join(check_pair(folder / "cert.pem", folder / "key.pem", None, now).warnings)
    except CertificateError as error:
        message = str(error)
    assert ("expired on" in message) == (days >= 90)
    assert ("not valid before" in message) == (days < -90)
    assert (", on " in message) == (30 <= days < 90)
    assert (message == "") == (-90 <= days < 30)


_LASTING = issue(names=OWN, begins=NOW - 90 * DAY, ends=NOW + 90 * DAY)
