"""Models of the true sizes of Qwen3-ASR with random weights, and the least work that their passes need.

The sizes are those of `config.json` in Qwen/Qwen3-ASR-0.6B and Qwen/Qwen3-ASR-1.7B. The tokenizer is that of the demo
checkpoint, whose ids the larger vocabulary contains.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch
from transformers import GenerationConfig, Qwen3ASRConfig, Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

from qwen_asr.engine.hub.checkpoints import DEMO_FOLDER
from qwen_asr.engine.recognizer import Recognizer

MEL_BINS, FRAME_SAMPLES = 128, 400
CHUNK_FRAMES = 100
"""The convolutions see 100 log-mel frames at a time (`n_window` twice) and make 13 embeddings of them."""
CHUNK_EMBEDDINGS = 13
FILL_VALUES = (1 << 20) + 7  # odd, so that no two rows of a matrix are equal


@dataclass(frozen=True)
class Shape:
    """The sizes of a checkpoint: widths, layers and heads of the text decoder and of the audio encoder."""

    text_width: int
    text_inner: int
    text_layers: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    audio_width: int
    audio_inner: int
    audio_layers: int
    audio_heads: int
    channels: int

    @property
    def layer_weights(self) -> int:
        """Weights of the decoder without embeddings and head: every pass reads them."""
        attention = 2 * self.text_width * self.head_width * (self.heads + self.kv_heads)
        norms = 2 * self.text_width + 2 * self.head_width
        return self.text_layers * (attention + 3 * self.text_width * self.text_inner + norms) + self.text_width

    @property
    def head_weights(self) -> int:
        """Weights of the head, which are also the embedding table."""
        return self.vocabulary * self.text_width

    @property
    def encoder_weights(self) -> int:
        """Weights of the convolutions, the encoder layers and the projector."""
        width, inner, channels = self.audio_width, self.audio_inner, self.channels
        convolutions = 9 * channels + 2 * 9 * channels**2 + 3 * channels + MEL_BINS // 8 * channels * width
        layer = 4 * width**2 + 2 * width * inner + 9 * width + inner
        projector = width * (width + 1) + self.text_width * (width + 1)
        return convolutions + self.audio_layers * layer + 2 * width + projector

    @property
    def kv_values(self) -> int:
        """Keys and values of one position."""
        return 2 * self.text_layers * self.kv_heads * self.head_width

    def decoder_operations(self, positions: int, pairs: int, predictions: int) -> int:
        """Multiplications and additions of a pass. pairs: (new position, position that it attends to)."""
        attention = 4 * self.text_layers * self.heads * self.head_width * pairs
        return 2 * self.layer_weights * positions + attention + 2 * self.head_weights * predictions

    def encoder_operations(self, frames: int) -> int:
        """Multiplications and additions for one window of `frames` log-mel frames."""
        chunks = -(-frames // CHUNK_FRAMES)
        embeddings = math.ceil(CHUNK_EMBEDDINGS * frames / CHUNK_FRAMES)
        # Three convolutions of 3 × 3 and stride 2, each over the bins and frames that the one before left.
        areas = [MEL_BINS // n * -(-CHUNK_FRAMES // n) for n in (2, 4, 8)]
        convolution = 9 * self.channels * (areas[0] + self.channels * (areas[1] + areas[2]))
        layer = 4 * self.audio_width**2 + 2 * self.audio_width * (self.audio_inner + embeddings)
        projector = self.audio_width * (self.audio_width + self.text_width)
        flat = MEL_BINS // 8 * self.channels * self.audio_width
        return 2 * (chunks * convolution + embeddings * (flat + self.audio_layers * layer + projector))


SHAPES = {
    "0.6b": Shape(1024, 3072, 28, 16, 8, 128, 151_936, 896, 3584, 18, 14, 480),
    "1.7b": Shape(2048, 6144, 28, 16, 8, 128, 151_936, 1024, 4096, 24, 16, 480),
    "tiny": Shape(64, 192, 2, 4, 2, 16, 632, 64, 256, 2, 4, 8),
}


def thin(shape: Shape) -> Shape:
    """The same layers at the widths of the tiny shape: a pass dispatches the same operators."""
    return replace(SHAPES["tiny"], text_layers=shape.text_layers, audio_layers=shape.audio_layers)


def log_mel_operations(frames: int) -> int:
    """A Fourier transform of 400 samples for each frame, and the mel filters."""
    bins = FRAME_SAMPLES // 2 + 1
    return frames * (round(2.5 * FRAME_SAMPLES * math.log2(FRAME_SAMPLES)) + 2 * bins * MEL_BINS)


def load_processor() -> Any:
    """The processor of the demo checkpoint."""
    return Qwen3ASRProcessor.from_pretrained(DEMO_FOLDER)


def configure(shape: Shape, processor: Any) -> Qwen3ASRConfig:
    """The configuration of a checkpoint of this shape with the tokenizer of `processor`."""
    token_id = processor.tokenizer.convert_tokens_to_ids
    return Qwen3ASRConfig(
        audio_config={
            "d_model": shape.audio_width,
            "encoder_layers": shape.audio_layers,
            "encoder_attention_heads": shape.audio_heads,
            "encoder_ffn_dim": shape.audio_inner,
            "downsample_hidden_size": shape.channels,
            "output_dim": shape.text_width,
        },
        text_config={
            "vocab_size": shape.vocabulary,
            "hidden_size": shape.text_width,
            "intermediate_size": shape.text_inner,
            "num_hidden_layers": shape.text_layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head_width,
            "max_position_embeddings": 65_536,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
            "tie_word_embeddings": True,
        },
        audio_token_id=token_id("<|audio_pad|>"),
        timestamp_token_id=token_id("<timestamp>"),
        pad_token_id=token_id("<|endoftext|>"),
        eos_token_id=[token_id("<|endoftext|>"), token_id("<|im_end|>")],
    )


def build_model(shape: Shape, processor: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A model in evaluation mode, with random weights made on `device`.

    The weights repeat one block of random values: drawing them all would take longer than the benchmark. Norms are 1
    and the rest is small, so nothing overflows in 16 bits.
    """
    config = configure(shape, processor)
    with torch.device("meta"):
        model: Any = Qwen3ASRForConditionalGeneration._from_config(config, dtype=dtype)
    model = model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    block = (torch.randn(FILL_VALUES, generator=generator, device=device) * 0.02).to(dtype)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight._is_hf_initialized = True  # transformers' own mark, so that `init_weights` fills the buffers only
            if weight.dim() == 1:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            flat = weight.view(-1)
            for start in range(0, len(flat), FILL_VALUES):
                flat[start : start + FILL_VALUES] = block[: len(flat) - start]
    model.init_weights()  # the buffers, and the head's tie to the embeddings
    ends = config.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=config.pad_token_id, do_sample=False)
    return model.eval()


def build_recognizer(name: str, device: torch.device, dtype: torch.dtype, *, quantized: bool = False) -> Recognizer:
    """The engine on a random model of a shape in `SHAPES`."""
    processor = load_processor()
    # Version 0.1, with which it is compared, knows neither.
    options = {"quantized": True} if quantized else {}
    recognizer = Recognizer(build_model(SHAPES[name], processor, device, dtype), processor, name, **options)
    if hasattr(recognizer, "capture_graphs"):
        recognizer.capture_graphs(lambda line: print(line, file=sys.stderr, flush=True))
    return recognizer


@dataclass(frozen=True)
class Rates:
    """What the device does at most in a second: bytes of memory, and multiplications and additions of matrices."""

    bandwidth: float
    operations: float

    def seconds(self, read: float, operations: float) -> tuple[float, float]:
        """The least time to read `read` bytes, and that to do `operations`."""
        return read / self.bandwidth, operations / self.operations

    def best(self, other: "Rates") -> "Rates":
        """The higher rates of two measurements."""
        return Rates(max(self.bandwidth, other.bandwidth), max(self.operations, other.operations))


def measure_rates(device: torch.device, dtype: torch.dtype, values: int = 1 << 26, rows: int | None = None) -> Rates:
    """The best of several copies and sums of `values` float32 numbers, and products of square matrices of `rows` rows.

    256 MB are larger than any cache. rows: by default 2048 on a CPU and 8192 elsewhere.
    """
    rows = rows or (2048 if device.type == "cpu" else 8192)
    source = torch.ones(values, device=device)
    target = torch.empty_like(source)
    left, right = (torch.full((rows, rows), 1 / rows, device=device, dtype=dtype) for _ in range(2))
    length = values * source.itemsize
    copied, summed = (best_time(run, device) for run in (lambda: target.copy_(source), source.sum))
    return Rates(max(2 * length / copied, length / summed), 2 * rows**3 / best_time(lambda: left @ right, device))


def best_time(function: Callable[[], object], device: torch.device, repeats: int = 6) -> float:
    """Seconds of the fastest of several calls, the device's work included."""
    times = []
    for _ in range(repeats):
        synchronize(device)
        started = perf_counter()
        function()
        synchronize(device)
        times.append(perf_counter() - started)
    return min(times)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
