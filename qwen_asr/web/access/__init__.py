"""Access checks: host names, origins, credentials, rate limits, and the headers of trusted proxies."""
