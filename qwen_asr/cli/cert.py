"""`qwen-asr cert`: shows, checks and renews certificates."""

from __future__ import annotations

import argparse
import os
from typing import Any

from qwen_asr.config.config import Config
from qwen_asr.config.option_fields import add_options

HELP = "show, check and renew certificates"
EXAMPLES = """examples:
  qwen-asr cert show
      describe the files in certs/ that the program made: names, validity, what to do
  qwen-asr cert show fullchain.pem privkey.pem
      describe your own files, and whether they belong together
  qwen-asr cert check /etc/letsencrypt/live/asr.example.com/fullchain.pem \\
                      /etc/letsencrypt/live/asr.example.com/privkey.pem
      the same, with exit code 1 if a server could not start with them
  qwen-asr cert renew
      replace the self-signed certificate, or the one signed by the local CA; the CA itself is kept

The password of an encrypted key is read from QWEN_ASR_SSL_KEYFILE_PASSWORD.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommands show, check and renew."""
    subparsers = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    for verb, help, files in (
        ("show", "describe files, and whether they belong together", "certificates and keys, PEM"),
        ("check", "the same, with exit code 1 if there is a problem", "certificates and keys, PEM"),
        ("renew", "replace the certificates that the program made", "certificates that the program made"),
    ):
        subparser = subparsers.add_parser(verb, help=help, epilog=EXAMPLES)
        subparser.add_argument("files", nargs="*", metavar="FILE", help=f"{files} (default: those in certs/)")
        if verb != "renew":
            add_options(subparser, Config, "ssl_keyfile_password")


def run(options: dict[str, Any]) -> int:
    """Prints a report; returns the exit code. Raises CertificateError."""
    from qwen_asr.tls import report as reports  # imports cryptography

    if options["verb"] == "renew":
        report = reports.renew(options["files"])
    else:
        password = options.get("ssl_keyfile_password") or os.environ.get("QWEN_ASR_SSL_KEYFILE_PASSWORD")
        report = reports.describe(options["files"], password)
    print(report.text)  # noqa: T201 - the report is the output
    return 1 if report.missing or (options["verb"] == "check" and report.problems) else 0
