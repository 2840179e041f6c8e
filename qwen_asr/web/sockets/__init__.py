"""The WebSocket routes: what all of them share, and one folder for each protocol."""
