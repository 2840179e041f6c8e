"""Tells what a stream of raw samples really is, where it is not what the client announced."""
