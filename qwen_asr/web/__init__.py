"""HTTP: the page, WebSocket and REST routes, access checks, and the server that serves them."""
