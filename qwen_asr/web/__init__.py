"""The edges: the page and the server that it comes from. What goes on inside is `live`'s.

`microphone` is the page's own microphone (bytes in, text out, nothing lost), `speaker` its other end on the server,
`page` what surrounds it, `service` the recognizer behind it, `server` the app that is served.
"""
