"""The commands `qwen-asr-serve-websocket` and `qwen-asr`: one module for each subcommand."""
