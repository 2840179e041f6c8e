"""The check of a pair: what can serve does, with the warnings it deserves; what cannot is a CertificateError."""

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

from qwen_asr.config.config import Config
from qwen_asr.errors import CertificateError
from qwen_asr.tls.addresses import names_of, own_names
from qwen_asr.tls.certificates import choose_certificate
from qwen_asr.tls.checks import certified_urls, fits
from qwen_asr.tls.preflight import CheckedPair, check_pair, load_context
from qwen_asr.web.app import _announce
from tests.support.certificates import DAY, NOW, PASSWORD, Chained, Issued, issue, new_ec, put

# This machine's own, so that no name is worth a warning.
OWN = (*own_names().dns, *(str(address) for address in own_names().ips))


def check(folder: Path, certificate: bytes, key: bytes | None = None, password: str | None = None) -> CheckedPair:
    put(folder, certificate, key)
    return check_pair(folder / "cert.pem", folder / "key.pem" if key else None, password, NOW)


def served(checked: CheckedPair, *trusted: Issued) -> list[bytes]:
    """The certificates that a client is sent, in DER; it verifies them where `trusted` are given."""
    context = load_context(checked)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    if trusted:
        client.load_verify_locations(cadata="".join(one.pem.decode() for one in trusted))
    else:
        client.verify_mode = ssl.CERT_NONE
    ours, theirs = socket.socketpair()

    def answer() -> None:
        try:
            with context.wrap_socket(theirs, server_side=True):
                pass
        except OSError:
            theirs.close()  # the client did not like us: it raises, and the test fails there

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with ours, client.wrap_socket(ours) as connection:
            assert connection.version() == "TLSv1.3"
            return [connection.getpeercert(binary_form=True) or b""]
    finally:
        thread.join()


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
def test_each_kind_of_key_in_each_form_serves(
    tmp_path: Path, make: Callable[[], object], kind: str, form: PrivateFormat, password: str | None
) -> None:
    made = issue(key=make(), names=OWN)
    checked = check(tmp_path, made.pem, made.key_pem(password, form), password)
    assert checked.key_type == kind
    assert checked.names == OWN
    assert checked.warnings == ()
    assert served(checked) == [made.certificate.public_bytes(Encoding.DER)]
    assert PASSWORD not in repr(checked)


def test_a_password_for_a_plain_key_is_no_mistake(tmp_path: Path) -> None:
    made = issue()
    assert served(check(tmp_path, made.pem, made.key_pem(), "not needed"))


def test_certificate_and_key_may_be_in_one_file_in_any_order(tmp_path: Path) -> None:
    made = issue()
    key = made.key_pem()
    for content in (made.pem + key, key + made.pem, b"Bag Attributes\n" + made.pem + key):
        assert served(check(tmp_path, content))


def test_links_as_certbot_keeps_them(tmp_path: Path) -> None:
    made = Chained()
    live, archive = tmp_path / "live" / "asr.example.com", tmp_path / "archive" / "asr.example.com"
    live.mkdir(parents=True)
    archive.mkdir(parents=True)
    for name, content in (("fullchain", made.leaf.pem + made.middle.pem), ("privkey", made.leaf.key_pem())):
        (archive / f"{name}1.pem").write_bytes(content)
        (live / f"{name}.pem").symlink_to(f"../../archive/asr.example.com/{name}1.pem")
    checked = check_pair(live / "fullchain.pem", live / "privkey.pem", None, NOW)
    assert served(checked, made.root)


@pytest.mark.parametrize("order", ["leaf middle", "middle leaf", "root leaf middle", "leaf stray middle leaf"])
def test_a_chain_is_served_in_the_right_order(tmp_path: Path, order: str, program: Callable[[str], str]) -> None:
    made = Chained()
    parts = {"leaf": made.leaf, "middle": made.middle, "root": made.root, "stray": issue("stray")}
    checked = check(tmp_path, b"".join(parts[name].pem for name in order.split()), made.leaf.key_pem())
    assert served(checked, made.root) == [made.leaf.certificate.public_bytes(Encoding.DER)]
    assert [one for one in checked.chain if one != made.root.certificate] == [made.middle.certificate]
    said = " ".join(checked.warnings)
    assert ("served in the right one" in said) == (order in ("middle leaf", "root leaf middle"))
    assert ("1 certificate(s) beside its own chain" in said) == ("stray" in order)


def test_a_missing_intermediate_is_warned_of(tmp_path: Path) -> None:
    made = Chained()
    checked = check(tmp_path, made.leaf.pem, made.leaf.key_pem())
    assert any("lacks the certificate of “Middle”" in warning for warning in checked.warnings)
    # “Root” is what devices have: whoever gives the chain up to it has given all.
    whole = check(tmp_path, made.leaf.pem + made.middle.pem + made.root.pem, made.leaf.key_pem())
    assert not any("lacks" in warning for warning in whole.warnings)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"begins": NOW - 61 * DAY, "ends": NOW + 29 * DAY}, "ends in 29 days, on .*: renew it"),
        ({"begins": NOW - 89 * DAY, "ends": NOW + DAY / 2}, "ends in 12 hours"),
        ({"ends": NOW + 3650 * DAY}, "Apple's devices take 825 at most"),
        ({"names": ["asr.example.com"]}, "is for asr.example.com, and this machine knows none of that"),
        ({"names": []}, "is for no name"),
        ({"key": ec.generate_private_key(ec.SECP521R1())}, "P-521, which Chromium does not take"),
    ],
    ids=["a third", "hours", "ten years", "another machine", "no name", "P-521"],
)
def test_what_will_bother_somebody_is_warned_of(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    made = issue(**{"names": OWN, **changes})  # type: ignore[arg-type]  # of issue's types
    [warning] = check(tmp_path, made.pem, made.key_pem()).warnings
    assert re.search(says, warning)


def test_a_key_that_everybody_reads_is_warned_of(tmp_path: Path) -> None:
    made = issue(names=OWN)
    put(tmp_path, made.pem, made.key_pem())
    (tmp_path / "key.pem").chmod(0o644)
    [warning] = check_pair(tmp_path / "cert.pem", tmp_path / "key.pem", None, NOW).warnings
    assert "chmod 600" in warning


def test_the_names_that_fit_a_machine() -> None:
    own = names_of([ip_address("192.0.2.7")], ["box.example.com", "box"])
    assert fits(["192.0.2.7"], own)
    assert fits(["*.example.com"], own)
    assert fits(["BOX.example.com"], own)
    assert fits(["localhost"], own)
    assert fits(["127.0.0.1"], own)
    assert not fits(["*.com", "example.com", "*.box.example.com"], own)


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
def test_only_addresses_that_the_certificate_is_for_are_listed(names: list[str], urls: list[str]) -> None:
    assert list(certified_urls(names, 443, ["https://localhost", "https://192.0.2.7"])) == urls


@pytest.mark.parametrize("own", [True, False], ids=["self-signed", "of an authority"])
def test_a_browser_s_warning_is_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str], own: bool) -> None:
    made = issue() if own else Chained().leaf
    put(tmp_path, made.pem, made.key_pem())
    config = Config(ssl_certfile=str(tmp_path / "cert.pem"), ssl_keyfile=str(tmp_path / "key.pem"))
    _announce(config, 443, choose_certificate(config))
    said = capsys.readouterr().out
    assert ("the browser warns once" in said) is own
    assert said.count("https://") == said.count("https://localhost\n") == 1


def test_a_certificate_for_localhost_is_for_this_machine(tmp_path: Path) -> None:
    made = issue(names=["localhost", "127.0.0.1"])
    assert check(tmp_path, made.pem, made.key_pem()).warnings == ()


def test_files_that_changed_since_they_were_checked(tmp_path: Path) -> None:
    made = issue()
    checked = check(tmp_path, made.pem, made.key_pem())
    (tmp_path / "key.pem").write_bytes(issue().key_pem())
    with pytest.raises(CertificateError, match="do not belong together"):
        load_context(checked)
    (tmp_path / "key.pem").unlink()
    with pytest.raises(CertificateError, match="cannot be loaded"):
        load_context(checked)


def test_an_authority_s_key_is_not_the_server_s(tmp_path: Path) -> None:
    made = Chained()
    with pytest.raises(CertificateError, match="do not belong together"):
        check(tmp_path, made.leaf.pem + made.middle.pem, made.middle.key_pem())


def test_what_openssl_itself_makes(tmp_path: Path, program: Callable[[str], str]) -> None:
    openssl = program("openssl")
    for kind in (["rsa:2048"], ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]):
        command = [openssl, "req", "-x509", "-newkey", *kind, "-days", "90", "-subj", "/CN=localhost"]
        names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        files = ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"]
        subprocess.run([*command, *names, *files, "-passout", "pass:secret"], check=True, capture_output=True)
        assert served(check_pair(tmp_path / "cert.pem", tmp_path / "key.pem", "secret", NOW + DAY))


def test_the_context_is_no_weaker_than_it_says(tmp_path: Path) -> None:
    made = issue()
    context = load_context(check(tmp_path, made.pem, made.key_pem()))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    suites = [suite["name"] for suite in context.get_ciphers() if not suite["name"].startswith("TLS_")]
    assert suites
    assert all("ECDHE" in name and ("GCM" in name or "POLY1305" in name) for name in suites)


# --- any content at all

PARTS = [part for made in [Chained()] for part in (made.leaf.pem, made.middle.pem, made.leaf.key_pem())]
LOCKED = issue().key_pem(PASSWORD)
PIECES = st.one_of(
    st.sampled_from([*PARTS, LOCKED, b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n", b"\n", b"\x00"]),
    st.binary(max_size=40),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """PEM text with some bytes changed, taken out or put in; mostly inside the base64, where the structure is."""
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


@given(
    certificate=st.one_of(mutated(), st.lists(PIECES, max_size=6).map(b"".join), st.just(PARTS[0])),
    key=st.one_of(st.none(), mutated(), st.lists(PIECES, max_size=4).map(b"".join), st.just(PARTS[2])),
    password=st.sampled_from([None, PASSWORD, "wrong", "x" * 5000]),
)
@settings(deadline=None, max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_files_are_an_error_or_a_context_that_works(
    tmp_path: Path, certificate: bytes, key: bytes | None, password: str | None
) -> None:
    (tmp_path / "key.pem").unlink(missing_ok=True)
    said = "It works."
    try:
        checked = check(tmp_path, certificate, key, password)
        assert served(checked) == [checked.leaf.public_bytes(Encoding.DER)]
    except CertificateError as error:
        said = str(error)
    assert said.endswith(".")
    assert "\n" not in said


@given(st.integers(-400, 400))
@settings(deadline=None, max_examples=30)
def test_the_time_decides_alone(tmp_path_factory: pytest.TempPathFactory, days: int) -> None:
    made = _LASTING
    folder = tmp_path_factory.getbasetemp()
    put(folder, made.pem, made.key_pem())
    now: datetime = NOW + days * DAY
    try:
        said = " ".join(check_pair(folder / "cert.pem", folder / "key.pem", None, now).warnings)
    except CertificateError as error:
        said = str(error)
    assert ("has expired" in said) == (days >= 90)
    assert ("not valid before" in said) == (days < -90)
    assert (", on " in said) == (30 <= days < 90)
    assert (said == "") == (-90 <= days < 30)


_LASTING = issue(names=OWN, begins=NOW - 90 * DAY, ends=NOW + 90 * DAY)
