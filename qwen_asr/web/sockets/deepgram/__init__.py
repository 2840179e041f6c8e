"""Deepgram's live transcription at `/v1/listen`."""
