"""Engines in other processes: on other GPUs of this machine, on other machines, or in a cluster. Needs no torch.

`scheduler` has an engine's interface and keeps the samples of each utterance. `messages` is what it sends, through one
of the `calls`. `host` answers them beside the model. docs/engine.md and docs/deploy.md explain it.
"""
