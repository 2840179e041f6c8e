"""Ports, TLS and uvicorn: from a TCP connection to the ASGI app."""
