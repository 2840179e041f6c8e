"""The HTTP routes: OpenAI's audio API, probes, metrics, and the page that explains the local CA."""
