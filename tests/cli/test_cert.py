"""`qwen-asr cert` on the command line: its reports and exit codes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from qwen_asr.cli import main as cli
from qwen_asr.tls.certificates import load_local_ca_certificate, load_self_signed_certificate
from qwen_asr.tls.checks import dns_and_ip_names
from qwen_asr.tls.local_ca import CA_NAME, LEAF_NAME, ensure_local_ca
from qwen_asr.tls.self_signed import CERTIFICATE_NAME, ensure_self_signed
from tests.support.certificates import DAY, MISTAKES, NOW, PASSWORD, Chained, issue, put

Cert = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cert(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cert:
    """`cert(arguments…)`: exit code, stdout and stderr of `qwen-asr cert` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = cli.run_subcommand(["cert", *map(str, arguments)])
        return code, *capfd.readouterr()

    return call


def test_show_describes_files(cert: Cert, tmp_path: Path) -> None:
    issued = Chained()
    put(tmp_path, issued.leaf.pem + issued.middle.pem, issued.leaf.key_pem())
    code, output, _ = cert("show", "cert.pem", "key.pem")
    assert code == 0
    for fact in (
        "is          a certificate with 1 more after it",
        "for         localhost, 127.0.0.1",
        "from        Middle ← Root",
        "89 days left",
        "key         EC P-256",
        "fits        the key in key.pem",
        "is          a private key",
        "lacks the certificate of “Root”",
    ):
        assert fact in output


@pytest.mark.parametrize("order", [("cert.pem", "key.pem"), ("key.pem", "cert.pem")])
def test_check_reports_a_key_of_another_certificate(cert: Cert, tmp_path: Path, order: tuple[str, str]) -> None:
    put(tmp_path, issue().pem, issue().key_pem())
    code, output, _ = cert("check", *order)
    assert code == 1
    assert "PROBLEM     The certificate in cert.pem and the key in key.pem do not belong together" in output
    assert "fits        none of the certificates that were given" in output
    assert cert("show", *order)[0] == 0


@pytest.mark.slow
def test_check_accepts_a_certificate_made_by_the_openssl_command(cert: Cert, tmp_path: Path) -> None:
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc", *subject, "-keyout", "key.pem"]
    subprocess.run([*command, "-out", "cert.pem"], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "key2.pem").write_bytes(issue().key_pem())
    code, output, _ = cert("check", "cert.pem", "key.pem")
    assert code == 0, output
    assert "is          a self-signed certificate" in output
    code, output, _ = cert("check", "cert.pem", "key2.pem")
    assert code == 1
    assert "PROBLEM     The certificate in cert.pem and the key in key2.pem do not belong together" in output


def test_check_requires_a_key_except_for_certificates_of_authorities(cert: Cert, tmp_path: Path) -> None:
    issued = Chained()
    (tmp_path / "root.pem").write_bytes(issued.root.pem)
    (tmp_path / "chain.pem").write_bytes(issued.middle.pem + issued.root.pem)
    (tmp_path / "reversed.pem").write_bytes(issued.middle.pem + issued.leaf.pem)
    put(tmp_path, issued.leaf.pem, issued.leaf.key_pem())
    assert cert("check", "root.pem", "chain.pem")[0] == 0
    assert cert("check", "root.pem", "chain.pem", "cert.pem", "key.pem")[0] == 0
    for files in (["cert.pem"], ["key.pem"], ["root.pem", "key.pem"], ["reversed.pem"]):
        code, output, _ = cert("check", *files)
        assert (code, output.count("PROBLEM")) == (1, 1), output
    put(tmp_path, issue().pem, None)
    code, output, _ = cert("check", "reversed.pem", "cert.pem", "key.pem")
    assert code == 1
    assert "cert.pem cannot be served without its key, which was not given: give the key's file too" in output


@pytest.mark.parametrize("verb", ["show", "check"])
def test_a_file_that_does_not_exist(cert: Cert, verb: str) -> None:
    code, output, _ = cert(verb, "nope")
    assert code == 1
    assert "nope does not exist: check the path" in output


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, mistake in MISTAKES.items() if name not in ("unreadable", "no file")])
def test_check_reports_the_same_mistakes_in_files_as_the_server(cert: Cert, tmp_path: Path, name: str) -> None:
    options = MISTAKES[name].make(tmp_path)
    files = [option for option in options if isinstance(option, Path)]
    of_options = {"two ways", "authority and own", "share", "Space", "port in use", "port 443"}
    harmless = {*of_options, "swapped"}
    code, output, error = cert("check", *files)
    assert error == ""
    assert code == (0 if name in harmless else 1), output
    assert ("PROBLEM" in output) == bool(code)
    assert "Traceback" not in output


def test_the_password_of_an_encrypted_key(cert: Cert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    issued = issue()
    put(tmp_path, issued.pem, issued.key_pem(PASSWORD))
    assert "no password was given" in cert("check", "cert.pem", "key.pem")[1]
    assert cert("check", "--ssl-keyfile-password", PASSWORD, "cert.pem", "key.pem")[0] == 0
    monkeypatch.setenv("QWEN_ASR_SSL_KEYFILE_PASSWORD", PASSWORD)
    code, output, _ = cert("check", "cert.pem", "key.pem")
    assert code == 0
    assert PASSWORD not in output
    assert "fits        the key in key.pem" in output


def test_without_files_the_program_s_own_are_described(cert: Cert, tmp_path: Path) -> None:
    code, _, error = cert("show")
    assert code == 1
    assert "holds none that the program made: give the files" in error
    ensure_self_signed(tmp_path / "certs")
    ensure_local_ca(tmp_path / "certs")
    code, output, _ = cert("check")
    assert code == 0, output
    assert output.count(".pem:\n") == 6
    assert "install it on the devices" in output
    assert "a self-signed certificate" in output


def test_check_reports_an_expired_certificate(cert: Cert, tmp_path: Path) -> None:
    ensure_self_signed(tmp_path / "certs", now=NOW - 400 * DAY)
    code, output, _ = cert("check")
    assert code == 1
    assert "expired on" in output
    assert cert("renew")[0] == 0
    assert cert("check")[0] == 0


def test_renew_replaces_the_leaf_and_keeps_the_root(cert: Cert, tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    ensure_self_signed(folder)
    ensure_local_ca(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, output, _ = cert("renew", folder / LEAF_NAME)
    assert code == 0
    assert "which stays" in output
    changed = {path.name for path in folder.iterdir() if path.read_bytes() != before[path.name]}
    assert LEAF_NAME in changed
    assert not changed & {CA_NAME, CERTIFICATE_NAME}
    cert("renew")
    assert (folder / CERTIFICATE_NAME).read_bytes() != before[CERTIFICATE_NAME]
    assert (folder / CA_NAME).read_bytes() == before[CA_NAME]


def test_renew_keeps_the_allowed_hosts_of_the_certificates(cert: Cert, tmp_path: Path) -> None:
    load_self_signed_certificate(tmp_path / "certs", allowed_hosts=["asr.home.arpa", "192.0.2.5"])
    load_local_ca_certificate(tmp_path / "certs", allowed_hosts=["asr.home.arpa", "192.0.2.5"])
    assert cert("renew")[0] == 0
    for name in (CERTIFICATE_NAME, LEAF_NAME):
        leaf = x509.load_pem_x509_certificate((tmp_path / "certs" / name).read_bytes())
        assert {"asr.home.arpa", "192.0.2.5"} <= {*dns_and_ip_names(leaf)}


@pytest.mark.parametrize("name", ["cert.pem", CERTIFICATE_NAME])
def test_renew_never_changes_files_of_the_user(cert: Cert, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(issue().pem)
    before = (tmp_path / name).read_bytes()
    code, _, error = cert("renew", name)
    assert code == 1
    assert "was not made by" in error or "is not a certificate that the program made" in error
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("verb", ["show", "check", "renew"])
def test_help_has_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.run_subcommand(["cert", verb, "--help"])
    assert "qwen-asr cert check /etc/letsencrypt/live/" in capsys.readouterr().out
