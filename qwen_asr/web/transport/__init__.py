"""Ports, TLS and uvicorn: how bytes reach the app."""
