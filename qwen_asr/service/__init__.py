"""The recognizer shared by all sessions: loading, admission, open sessions, watchdog, shutdown. No HTTP."""
