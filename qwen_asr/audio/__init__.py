"""Samples in, utterances out: decoding, resampling, voice activity and endpointing.

No model but Silero's, no clock, and no network but `load_audio` of a URL that the caller names. `samples` validates at
the edges. Between the parts, audio is float32 mono at `SAMPLE_RATE`, finite, nominally -1..1, shape (samples,).
"""

SAMPLE_RATE = 16_000
