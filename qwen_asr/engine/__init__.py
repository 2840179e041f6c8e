"""The recognition engine: utterance samples in, hypotheses out. No clock, no network after loading, no sessions.

`hub` fetches a Qwen3-ASR, and `checkpoint` loads it. `streaming.Utterance` is one utterance: after each step its
hypothesis is what greedy `generate` gives for the audio so far. `features`, `encoder` and `decoder` are the parts of a
step. `scheduler` runs the steps of many utterances as batches. `aligner` and `frame_aligner` find the times of `words`.
docs/engine.md explains how it works.
"""
