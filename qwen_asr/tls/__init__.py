"""TLS certificates: create, check, load, reload and renew them. Imports only `errors` and `network`.

`certificates` holds the ways to get the server's certificate, `preflight.check_pair` explains what is wrong with a pair
of files, `context.load_context` builds the SSL context for the pair, and `addresses.page_urls(host, port, tls)` lists
the URLs under which the page can be opened.
"""
