"""Checkpoints on disk and on the Hugging Face hub, without torch: they are found, fetched and checked, not loaded.

`checkpoints` tells what a folder holds. `download` fetches. `cache` lists what is cached, and `integrity` finds damage.
"""
