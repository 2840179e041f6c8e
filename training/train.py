"""Train the demo checkpoint on synthetic speech. Two CPU cores are enough.

    python -m training.corpus build/corpus            # a few minutes
    python -m training.train build/corpus build/demo --minutes 90

The learning rate follows the clock (cosine over `--minutes`), so a run ends on time. Progress is written to
`progress.txt` next to the checkpoint, which is saved every five minutes and can be used during training.
"""

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, multiprocessing, nn
from torch.nn import functional as F
from transformers import Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor
from transformers.audio_utils import mel_filter_bank

from training.corpus import MAX_SECONDS, Corpus, Example
from training.model import build_model, build_processor

CHUNK_FRAMES = 100
IGNORED = -100
CTC_WEIGHT = 0.3
PEAK_RATE = 2e-3
WARM_UP_STEPS = 200
# After a sentence end the model must decide whether to stop. This is one token in ten and the last to be learned: a
# model that gets it wrong repeats its last sentence.
SENTENCE_END_WEIGHT = 4.0
SECONDS_OF_AUDIO_PER_BATCH = 110
SINGLE_SENTENCE_SHARE = 0.4
SINGLE_SENTENCE_SECONDS = 3.0
RANDOM_LANGUAGES = ("German", "French", "Chinese", "Spanish")
# A forked process shares the corpus, which is large and read-only.
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Batch:
    """chunks: (sum of chunks, 1, 128, 100) log-mel; windows: valid embeddings of each chunk and window lengths."""

    chunks: Tensor
    chunk_lengths: Tensor
    window_lengths: list[int]
    tokens: Tensor
    labels: Tensor
    audio_mask: Tensor
    audio_lengths: list[int]
    targets: list[list[int]]


class Batcher:
    """Builds batches of examples of similar length ahead of time, in a separate process."""

    def __init__(self, corpus: Corpus, processor: Qwen3ASRProcessor, seed: int) -> None:
        self.corpus = corpus
        self.processor = processor
        self.rng = np.random.default_rng(seed)
        self._max_seconds = FORK.Value("d", 3.0)
        filters = mel_filter_bank(201, 128, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney")
        self.filters = torch.from_numpy(filters).float().T.contiguous()
        self.window = torch.hann_window(400)
        self.queue: Any = FORK.Queue(maxsize=24)
        FORK.Process(target=self.run, daemon=True).start()

    def set_max_seconds(self, seconds: float) -> None:
        """Limit the length of the utterances of later batches."""
        self._max_seconds.value = seconds

    def run(self) -> None:
        """The loop of the separate process."""
        torch.set_num_threads(1)
        while True:
            max_seconds = self._max_seconds.value
            pool = [self.corpus.example(self.rng, max_seconds) for _ in range(256)]
            pool.sort(key=lambda example: len(example.samples))
            batches: list[list[Example]] = [[]]
            for example in pool:
                seconds = sum(len(other.samples) for other in batches[-1]) / 16000
                if seconds > SECONDS_OF_AUDIO_PER_BATCH or len(batches[-1]) == 32:
                    batches.append([])
                batches[-1].append(example)
            for index in self.rng.permutation(len(batches)):
                self.queue.put(self.collate(batches[index]))

    def log_mel(self, samples: np.ndarray) -> Tensor:
        """The log-mel of `Qwen3ASRFeatureExtractor` without batch padding, with SpecAugment: (128, frames)."""
        wave = torch.from_numpy(samples)
        if len(wave) < 8000:
            wave = F.pad(wave, (0, 8000 - len(wave)))
        power = torch.stft(wave, 400, 160, window=self.window, return_complex=True)[:, :-1].abs() ** 2
        mel: Tensor = (self.filters @ power).clamp(min=1e-10).log10()
        mel = (torch.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0
        for _ in range(int(self.rng.integers(0, 3))):
            low, high = int(self.rng.integers(0, 118)), int(self.rng.integers(2, 16))
            mel[low : low + high] = mel.mean()
        for _ in range(int(self.rng.integers(0, 1 + mel.shape[1] // 200))):
            start = int(self.rng.integers(0, mel.shape[1]))
            mel[:, start : start + int(self.rng.integers(2, 12))] = mel.mean()
        return mel

    def collate(self, examples: list[Example]) -> Batch:
        chunks, chunk_lengths, window_lengths, audio_lengths = [], [], [], []
        rows, labels, masks, targets = [], [], [], []
        for example in examples:
            mel = self.log_mel(example.samples)
            frames = mel.shape[1]
            padded = F.pad(mel, (0, -frames % CHUNK_FRAMES))
            chunks.append(padded.reshape(128, -1, CHUNK_FRAMES).transpose(0, 1))
            lengths = [13] * (frames // CHUNK_FRAMES)
            if frames % CHUNK_FRAMES:
                lengths.append((frames % CHUNK_FRAMES + 7) // 8)
            chunk_lengths += lengths
            window_lengths += [sum(lengths[i : i + 8]) for i in range(0, len(lengths), 8)]
            audio_lengths.append(sum(lengths))
            row, label, mask, target = self.tokens(example, sum(lengths))
            rows.append(row)
            labels.append(label)
            masks.append(mask)
            targets.append(target)
        return Batch(
            torch.cat(chunks).unsqueeze(1),
            torch.tensor(chunk_lengths),
            window_lengths,
            padded_rows(rows, 0),
            padded_rows(labels, IGNORED),
            padded_rows(masks, 0).bool(),
            audio_lengths,
            targets,
        )

    def encode(self, text: str) -> list[int]:
        tokens: list[int] = self.processor.tokenizer(text)["input_ids"]
        return tokens

    def tokens(self, example: Example, audio: int) -> tuple[list[int], list[int], list[int], list[int]]:
        """Token ids of prompt, audio positions and answer; labels for the answer only; the audio mask; the text."""
        language = "English" if example.text else "None"
        answer = f"language {language}<asr_text>"
        suffix = "<|audio_end|><|im_end|>\n<|im_start|>assistant\n"
        if example.forced_language:
            forced = str(self.rng.choice(RANDOM_LANGUAGES)) if self.rng.random() < 0.2 else "English"
            suffix, answer = suffix + f"language {forced}<asr_text>", ""
        text = self.encode(example.text) if example.text else []
        head = self.encode(f"<|im_start|>system\n{example.context}<|im_end|>\n<|im_start|>user\n<|audio_start|>")
        tail = self.encode(suffix)
        target = self.encode(answer) + text + self.encode("<|im_end|>")
        row = head + [0] * audio + tail + target
        label = [IGNORED] * (len(row) - len(target)) + target
        mask = [0] * len(head) + [1] * audio + [0] * (len(tail) + len(target))
        return row, label, mask, text


def padded_rows(rows: list[list[int]], value: int) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def encode_audio(model: Qwen3ASRForConditionalGeneration, batch: Batch) -> Tensor:
    """Audio embeddings of all examples back to back, (sum of lengths, width).

    Computes the same as `Qwen3ASREncoder.forward`, with the attention windows in one padded batch instead of a loop.
    """
    tower: Any = model.model.audio_tower
    hidden = F.gelu(tower.conv2d1(batch.chunks))
    hidden = F.gelu(tower.conv2d2(hidden))
    hidden = F.gelu(tower.conv2d3(hidden))
    count, channels, bins, steps = hidden.shape
    hidden = tower.conv_out(hidden.permute(0, 3, 1, 2).reshape(count, steps, channels * bins))
    hidden = hidden + tower.positional_embedding.positional_embedding[:steps]
    packed = hidden[torch.arange(steps) < batch.chunk_lengths[:, None]]
    windows = nn.utils.rnn.pad_sequence(list(packed.split(batch.window_lengths)), batch_first=True)
    valid = torch.arange(windows.shape[1]) < torch.tensor(batch.window_lengths)[:, None]
    for layer in tower.layers:
        windows = encoder_layer(layer, windows, valid[:, None, None, :])
    embeddings: Tensor = model.model.multi_modal_projector(tower.ln_post(windows)[valid])
    return embeddings


def encoder_layer(layer: Any, hidden: Tensor, mask: Tensor) -> Tensor:
    attention = layer.self_attn
    batch, length, width = hidden.shape
    normed = layer.self_attn_layer_norm(hidden)
    query, key, value = (
        projection(normed).view(batch, length, attention.num_heads, -1).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    hidden = hidden + attention.out_proj(mixed.transpose(1, 2).reshape(batch, length, width))
    widened: Tensor = F.gelu(layer.fc1(layer.final_layer_norm(hidden)))
    return hidden + layer.fc2(widened)  # type: ignore[no-any-return]  # a module's result


class Trainer:
    """The model, the optimizer and the two losses."""

    def __init__(self, corpus: Corpus, minutes: float, seed: int, resume: Path | None = None) -> None:
        self.processor = build_processor()
        self.model = build_model(self.processor, seed=seed).train()
        self.single_share = SINGLE_SENTENCE_SHARE
        self.resumed = resume is not None
        self.sentence_ends = torch.tensor(self.processor.tokenizer.convert_tokens_to_ids([".", "?"]))
        if resume is not None:
            self.single_share = -1.0  # use all lengths from the first step
            trained = Qwen3ASRForConditionalGeneration.from_pretrained(resume, dtype=torch.float32)
            self.model.load_state_dict(trained.state_dict())
        self.ctc_head = nn.Linear(self.model.config.text_config.hidden_size, len(self.processor.tokenizer) + 1)
        self.parameters = [*self.model.parameters(), *self.ctc_head.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01)
        self.batcher = Batcher(corpus, self.processor, seed)
        self.seconds = minutes * 60
        self.started = time.monotonic()
        # bfloat16 is about 25 % faster on processors that support it, and much slower on others.
        self.use_bfloat16 = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        self.steps = 0
        self.peak_rate = PEAK_RATE

    @property
    def progress(self) -> float:
        """The elapsed share of the training time, from 0 to 1."""
        return min((time.monotonic() - self.started) / self.seconds, 1.0)

    def step(self) -> tuple[float, float]:
        """Train on one batch. Returns the next-token loss and the CTC loss."""
        progress = self.progress
        growth = (progress - self.single_share) / 0.25
        max_seconds = SINGLE_SENTENCE_SECONDS + (MAX_SECONDS - SINGLE_SENTENCE_SECONDS) * min(max(growth, 0.0), 1.0)
        self.batcher.set_max_seconds(max_seconds)
        cosine = (1 + math.cos(math.pi * progress)) / 2
        rate = self.peak_rate * min(1.0, (self.steps + 1) / WARM_UP_STEPS) * (0.02 + 0.98 * cosine)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.use_bfloat16):
            token_loss, ctc_loss = self.losses(self.batcher.queue.get())
        self.optimizer.zero_grad(set_to_none=True)
        (token_loss + CTC_WEIGHT * ctc_loss).backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.steps += 1
        return float(token_loss.detach()), float(ctc_loss.detach())

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        audio = encode_audio(self.model, batch)
        embeds = self.model.get_input_embeddings()(batch.tokens)
        embeds = embeds.masked_scatter(batch.audio_mask[..., None], audio.to(embeds.dtype))
        hidden = self.model.model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        expected = batch.labels[:, 1:]
        scored = expected != IGNORED
        logits = self.model.lm_head(hidden[:, :-1][scored])
        ends = torch.isin(batch.tokens[:, :-1][scored], self.sentence_ends)
        weights = torch.where(ends, SENTENCE_END_WEIGHT, 1.0)
        token_losses = F.cross_entropy(logits.float(), expected[scored], reduction="none")
        token_loss = (token_losses * weights).sum() / weights.sum()
        # After a resume, the new CTC head warms up first, so that it does not disturb the trained decoder.
        ctc_input = hidden.detach() if self.resumed and self.steps < WARM_UP_STEPS else hidden
        audio_hidden = nn.utils.rnn.pad_sequence(list(ctc_input[batch.audio_mask].split(batch.audio_lengths)))
        ctc_loss = F.ctc_loss(
            F.log_softmax(self.ctc_head(audio_hidden).float(), dim=-1),
            torch.tensor([token for target in batch.targets for token in target], dtype=torch.long),
            torch.tensor(batch.audio_lengths),
            torch.tensor([len(target) for target in batch.targets]),
            blank=self.ctc_head.out_features - 1,
            zero_infinity=True,
        )
        return token_loss, ctc_loss

    def save(self, folder: Path) -> None:
        """Write the checkpoint in float16."""
        self.processor.save_pretrained(folder)
        saved = build_model(self.processor)
        saved.load_state_dict(self.model.state_dict())
        saved.half().save_pretrained(folder)
        (folder / "model.safetensors").chmod(0o644)  # safetensors makes it readable only by its owner


def train(trainer: Trainer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    recent: list[tuple[float, float]] = []
    last_saved = time.monotonic()
    while trainer.progress < 1.0:
        recent.append(trainer.step())
        if trainer.steps % 50 == 0:
            token_loss, ctc_loss = np.mean(recent, axis=0)
            line = (
                f"{trainer.progress:6.1%}  step {trainer.steps}  token loss {token_loss:.3f}  CTC loss {ctc_loss:.3f}"
            )
            print(line, flush=True)
            with (folder / "progress.txt").open("a") as log:
                log.write(line + "\n")
            recent.clear()
        if time.monotonic() - last_saved > 300:
            trainer.save(folder)
            last_saved = time.monotonic()
    trainer.save(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo checkpoint.")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=90.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peak-rate", type=float, default=PEAK_RATE, help="highest learning rate")
    parser.add_argument("--resume", type=Path, help="continue from this checkpoint, with utterances of all lengths")
    arguments = parser.parse_args()
    trainer = Trainer(Corpus(arguments.corpus), arguments.minutes, arguments.seed, arguments.resume)
    trainer.peak_rate = arguments.peak_rate
    train(trainer, arguments.output)


if __name__ == "__main__":
    main()
