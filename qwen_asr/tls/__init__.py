"""Certificates and the addresses they are for. Imports nothing of the package but `errors`.

`self_signed.ensure_self_signed(folder)` gives a certificate and its key, made now or used again while they fit;
`addresses.page_urls(host, port, tls)` every address at which the page can be opened.
"""
