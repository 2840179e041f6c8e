"""The head on the audio encoder: which letter is spoken in each part of a row of embeddings, or silence.

The encoder gives 13 rows for a second of audio, of 60 or 80 ms each. That is coarse for the times of words, so the head
splits each row into `PARTS` parts. A letter stands for the part of its word that is as long as those of the others: no
sounds are modelled. The first letter of a word is a class of its own, because there the word begins.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.errors import BadCheckpoint

PARTS = 4
LETTERS = 26
SILENCE = 2 * LETTERS
"""The class after those of the letters inside of a word and of the first letters."""
CLASSES = SILENCE + 1
KERNEL = 5
"""How many rows the head sees around each part."""
STRIDE = 8
"""Log-mel frames from one row to the next in a chunk: the encoder's three convolutions halve the rate three times."""


class FrameHead(nn.Module):
    """A convolution over rows, then a linear layer for each part.

    width: that of the embeddings. hidden: that of a part between the two layers. `mean` and `deviation` are those of
    each value in the embeddings of the training.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.convolution = nn.Conv1d(width, PARTS * hidden, KERNEL, padding=KERNEL // 2)
        self.output = nn.Linear(hidden, CLASSES)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def forward(self, rows: Tensor) -> Tensor:
        """Embeddings (clips, rows, width) to logits (clips, PARTS * rows, CLASSES)."""
        normed = (rows - self.mean) / self.deviation
        hidden = F.gelu(self.convolution(normed.transpose(1, 2))).transpose(1, 2)
        logits: Tensor = self.output(hidden.reshape(len(rows), -1, self.hidden))
        return logits

    def save(self, file: Path) -> None:
        """Write the weights, in float16."""
        save_file({name: weight.half().contiguous() for name, weight in self.state_dict().items()}, file)
        file.chmod(0o644)  # safetensors makes it readable only by its owner


def load_head(file: Path, width: int) -> FrameHead:
    """The head in `file`, in float32 on the CPU, for embeddings of this width. Raises `BadCheckpoint`."""
    try:
        weights = {name: weight.float() for name, weight in load_file(file).items()}
        head = FrameHead(width, weights["output.weight"].shape[1])
        head.load_state_dict(weights)
    except (OSError, KeyError, IndexError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadCheckpoint(
            f"{file} holds no head for word times that fits this checkpoint ({reason}). Give what "
            "training.train_word_times wrote for it, or install the package again."
        ) from error
    return head.eval()


def letter_classes(word: str) -> list[int | None]:
    """The class of each letter or digit of a word; None for one that is no Latin letter. [] for punctuation alone."""
    classes: list[int | None] = []
    for character in unicodedata.normalize("NFKD", "".join(filter(str.isalnum, word))).casefold():
        if character.isascii() and character.isalpha():
            classes.append(ord(character) - ord("a"))
        elif character.isalnum():
            classes.append(None)
    if not classes and any(map(str.isalnum, word)):
        return [None]  # some forms of Arabic and Japanese marks fall apart
    if classes and classes[0] is not None:
        classes[0] += LETTERS
    return classes


def part_edges(recognizer: Recognizer, rows: int, samples: int) -> NDArray[np.int64]:
    """Where the parts of the rows of a clip begin, in samples, and where the last one ends: (PARTS * rows + 1,).

    A row is centred on a log-mel frame, each eighth of a chunk. It reaches half of the way to the rows beside it.
    """
    encoder, hop = recognizer.encoder, recognizer.frontend.hop
    chunk, place = np.divmod(np.arange(rows), encoder.embeddings_of(encoder.chunk_frames))
    centres = (chunk * encoder.chunk_frames + place * STRIDE) * hop
    edges = np.concatenate([[0], (centres[1:] + centres[:-1]) / 2, centres[-1:] + STRIDE * hop / 2])
    parts = edges[:-1, None] + np.diff(edges)[:, None] * np.arange(PARTS) / PARTS
    return np.minimum(np.rint([*parts.ravel(), edges[-1]]), samples).astype(np.int64)
