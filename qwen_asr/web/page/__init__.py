"""The Gradio page: its microphone, its transcript, and the recordings behind it."""
