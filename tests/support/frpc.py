"""A stand-in for frpc, the tunnel program of Gradio's share links: `tests/support/share_server.py` runs the other end.

It takes the arguments that Gradio's program takes, prints the lines that it prints, and tunnels: the server asks over
the control connection for a connection to the local port, and this program opens one to each side and joins them. What
the two ends say to each other is simpler than in frp. It is copied to where Gradio looks for its program, and imports
nothing but the standard library.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import ssl
import sys
import threading
import time


def say(level: str, text: str) -> None:
    """Prints a line as frp's log does."""
    print(f"{time.strftime('%Y/%m/%d %H:%M:%S')} [{level}] [control.go:1] [0a1b2c] {text}", flush=True)


def arguments() -> argparse.Namespace:
    """Those of `frpc http`, as the fork of Hugging Face has them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["http"])
    parser.add_argument("-n", dest="name", required=True)
    parser.add_argument("-l", dest="port", type=int, required=True)
    parser.add_argument("-i", dest="host", required=True)
    parser.add_argument("--sd", required=True, choices=["random"])
    parser.add_argument("--server_addr", required=True)
    parser.add_argument("--tls_trusted_ca_file")
    for flag in ("--uc", "--ue", "--disable_log_color", "--tls_enable"):
        parser.add_argument(flag, action="store_true")
    return parser.parse_args()


def dial(options: argparse.Namespace) -> socket.socket:
    """A connection to the share server, over TLS if it is asked for."""
    host, _, port = options.server_addr.rpartition(":")
    connection = socket.create_connection((host, int(port)), 10)
    connection.settimeout(None)
    if not options.tls_enable:
        return connection
    context = ssl.create_default_context(cafile=options.tls_trusted_ca_file)
    return context.wrap_socket(connection, server_hostname="localhost")


def greet(connection: socket.socket, **message: str | int) -> None:
    """Sends the first line of a connection."""
    connection.sendall(json.dumps(message).encode() + b"\n")


def copy(source: socket.socket, target: socket.socket) -> None:
    """Copies until the source ends; then ends the target too."""
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def work(options: argparse.Namespace, number: str) -> None:
    """One connection of a visitor."""
    with dial(options) as remote:
        greet(remote, work=number)
        with contextlib.suppress(OSError), socket.create_connection((options.host, options.port), 10) as local:
            local.settimeout(None)
            up = threading.Thread(target=copy, args=(remote, local), daemon=True)
            up.start()
            copy(local, remote)
            up.join(10)


def serve(options: argparse.Namespace, control: socket.socket) -> None:
    """Follows the server until the control connection ends."""
    greet(control, login=options.name, pid=os.getpid())
    with control, control.makefile("rb") as lines:
        for line in lines:
            message = json.loads(line)
            if "refused" in message:
                say("W", f"login to server failed: {message['refused']}")
                sys.exit(1)
            if "link" in message:
                say("I", f"[{options.name}] start proxy success: {message['link']}")
            if "say" in message:
                say("W", message["say"])
            if "exit" in message:
                sys.exit(message["exit"])
            if "work" in message:
                threading.Thread(target=work, args=(options, message["work"]), daemon=True).start()


def main() -> None:
    """Ends if the first login fails; later it connects again, as frp does."""
    options = arguments()
    try:
        control = dial(options)
    except OSError as error:
        say("W", f"login to server failed: dial tcp {options.server_addr}: {error.strerror or error}")
        sys.exit(1)
    while True:
        serve(options, control)
        say("I", "try to reconnect to server...")
        while True:
            time.sleep(0.2)
            try:
                control = dial(options)
                break
            except OSError as error:
                say("W", f"reconnect to server error: {error}, wait 200ms for another retry")


if __name__ == "__main__":
    main()
