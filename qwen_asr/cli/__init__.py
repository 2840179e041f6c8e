"""The commands `qwen-asr-serve-websocket` and `qwen-asr`."""
