"""`/v1/realtime`: OpenAI's realtime transcription. docs/openai.md shows every event."""
