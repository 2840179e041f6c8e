"""Samples in, utterances out: decoding, resampling, voice activity and endpointing.

No model but Silero's, no network but `load_audio` of a URL that the caller named, no clock. Everything behind
`decode` and `resample` is float32 mono at `SAMPLE_RATE`, nominally -1..1, shape (samples,).
"""

SAMPLE_RATE = 16_000
