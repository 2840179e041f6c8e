"""Times of words from the recognizer's own encoder and a small head, as the bundled demo checkpoint has one.

`head` classifies short parts of the audio as letters or silence, `search` finds the likeliest times of the letters of a
known text, and `aligner` makes words of them. `training/train_word_times.py` trains the head.
"""

from qwen_asr.engine.frame_aligner.aligner import FrameAligner, load_frame_aligner

__all__ = ["FrameAligner", "load_frame_aligner"]
