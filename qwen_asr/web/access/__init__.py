"""Which requests are allowed: hosts, origins, credentials, rates, and what trusted proxies report."""
