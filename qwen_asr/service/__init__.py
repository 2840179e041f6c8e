"""The recognizer shared by all sessions: loading, admission, the open sessions, the watchdog, and shutdown. No HTTP."""
