"""`/ws/asr`: live recognition with sessions that can be resumed. docs/protocol.md shows every message."""
