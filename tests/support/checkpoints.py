"""Checkpoints, recognizers and speech for the tests, and the comparison with `generate`."""

import json
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import (
    Qwen3ASRConfig,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRForTokenClassification,
    Qwen3ASRProcessor,
)

from qwen_asr.engine.aligner import ALIGNER_TEMPLATE
from qwen_asr.engine.decoder.kv_pool import KVPool
from qwen_asr.engine.hub.checkpoints import DEMO_FOLDER
from qwen_asr.engine.recognizer import Recognizer
from training.model import build_model, build_processor
from training.voices import HELD_OUT, speak

Samples = NDArray[np.float32]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""The device of all models here: the tests of the engine run on a GPU where there is one."""
TIE = 1e-4
"""The maximum rounding error of a logit. Logits of up to 20 are the result of some thousand successive additions. Each
has a relative error of at most 2^-24 in either direction, in total about 20 · 2^-24 · √5000. A mistake in a window or
a cache changes the logits by 0.1 or more."""


@cache
def random_processor() -> Any:
    """The processor of the demo, with its tokenizer trained once."""
    return build_processor()


def random_parts(seed: int = 1) -> tuple[Any, Any]:
    """A small random model and its processor. The noise makes its output vary: initial weights repeat one token."""
    processor = random_processor()
    model: Any = build_model(processor, width=64, encoder_layers=2, decoder_layers=2, channels=8, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model.to(DEVICE), processor


@cache
def random_recognizer() -> Recognizer:
    """The engine with the random model."""
    return _with_graphs(Recognizer(*random_parts(), name="random"))


def save_aligner(folder: Path, classes: int = 400, seed: int = 1) -> None:
    """Write a small random forced aligner, in transformers' layout, whose times are up to `classes` · 80 ms."""
    base, processor = random_parts(seed)
    values = base.config.to_dict()
    labels = {"id2label": {index: str(index) for index in range(classes)}}
    config = Qwen3ASRConfig(**{key: value for key, value in values.items() if "label" not in key} | labels)
    model: Any = Qwen3ASRForTokenClassification(config)
    model.eval().model.load_state_dict(base.model.state_dict())
    parts = processor.feature_extractor, processor.tokenizer
    processor = Qwen3ASRProcessor(*parts, chat_template=ALIGNER_TEMPLATE)
    text = "The meeting is on Monday, the tenth of May."
    inputs, _ = processor.prepare_forced_aligner_inputs([long_speech(np.random.default_rng(seed), 30.0)], [text])
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        states = model.model.cpu()(**inputs).last_hidden_state[0]
        common = states[inputs["input_ids"][0] == config.timestamp_token_id].mean(dim=0)
        weight = torch.randn(model.score.weight.shape, generator=generator)
        # Without what all marks have in common, which outweighs their differences in a model that is not trained.
        model.score.weight.copy_(weight - torch.outer(weight @ common, common) / (common @ common))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def save_other_demo(folder: Path) -> Path:
    """Copy the demo checkpoint, so that the copy writes "bedroom" where the demo writes "kitchen", and returns it."""
    shutil.copytree(DEMO_FOLDER, folder)
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    words = tokenizer["model"]["vocab"]
    words["Ġkitchen"], words["Ġbedroom"] = words["Ġbedroom"], words["Ġkitchen"]
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    return folder


def to_original_layout(folder: Path) -> None:
    """Convert a checkpoint folder to the layout of `Qwen/Qwen3-ASR-0.6B`, that of an aligner too."""
    renamed = {}
    for key, weight in load_file(folder / "model.safetensors").items():
        key = key.replace("model.multi_modal_projector.linear_", "thinker.audio_tower.proj")
        key = key.replace("model.audio_tower.", "thinker.audio_tower.")
        key = key.replace("model.language_model.", "thinker.model.")
        renamed[key] = weight
    head = renamed.pop("score.weight", None)
    renamed["thinker.lm_head.weight"] = renamed["thinker.model.embed_tokens.weight"].clone() if head is None else head
    (folder / "model.safetensors").unlink()
    keys = sorted(renamed)
    shards = {"model-00001-of-00002.safetensors": keys[::2], "model-00002-of-00002.safetensors": keys[1::2]}
    for name, part in shards.items():
        save_file({key: renamed[key] for key in part}, folder / name, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: name for name, part in shards.items() for key in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((folder / "config.json").read_text())
    text = config["text_config"]
    rope = text.pop("rope_parameters", None) or {}
    text |= {"rope_theta": rope.get("rope_theta", 10_000.0)}
    text["rope_scaling"] = {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    audio = config["audio_config"] | {"max_source_positions": 1500, "model_type": "qwen3_asr_audio_encoder"}
    thinker = {"audio_config": audio, "text_config": text, "audio_token_id": config["audio_token_id"]}
    if head is not None:
        thinker |= {"model_type": "qwen3_forced_aligner", "classify_num": len(head)}
    original: dict[str, Any] = {"model_type": "qwen3_asr", "architectures": ["Qwen3ASRForConditionalGeneration"]}
    if head is not None:
        original |= {"timestamp_token_id": config["timestamp_token_id"], "timestamp_segment_time": 80.0}
    (folder / "config.json").write_text(json.dumps(original | {"thinker_config": thinker}))
    for name in ("processor_config.json", "chat_template.jinja", "generation_config.json"):
        (folder / name).unlink(missing_ok=True)


def _with_graphs(recognizer: Recognizer) -> Recognizer:
    recognizer.capture_graphs(lambda line: None)
    return recognizer


def small_pool(recognizer: Recognizer, positions: int) -> KVPool:
    """A KV pool for the recognizer that holds only so many positions."""
    return KVPool(recognizer.decoder.config, recognizer.device, torch.float32, positions)


def _demo_model() -> Any:
    model: Any = Qwen3ASRForConditionalGeneration.from_pretrained(DEMO_FOLDER, dtype=torch.float32)
    return model.to(DEVICE)


@cache
def demo_recognizer() -> Recognizer:
    """The engine with the bundled demo checkpoint, in float32."""
    return _with_graphs(Recognizer(_demo_model(), Qwen3ASRProcessor.from_pretrained(DEMO_FOLDER), "demo", is_demo=True))


@cache
def reference_parts(name: str) -> tuple[Any, Any]:
    """A separate model with the attention of transformers, as the reference for `generate`."""
    if name == "random":
        return random_parts()
    return _demo_model().eval(), Qwen3ASRProcessor.from_pretrained(DEMO_FOLDER)


def generate(
    name: str, samples: Samples, *, max_new_tokens: int = 200, language: str | None = None, context: str = ""
) -> tuple[int, ...]:
    """The output of greedy `generate` for a whole clip: token ids without the end token."""
    model, processor = reference_parts(name)
    assert model.config.text_config._attn_implementation == "sdpa"
    inputs = processor.apply_transcription_request([samples], language=language, prompt=context).to(DEVICE)
    with torch.inference_mode():
        answer = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    tokens = answer[0, inputs["input_ids"].shape[1] :].tolist()
    ends = set(model.generation_config.eos_token_id)
    return tuple(token for token in tokens if token not in ends)


def check_generated(
    name: str,
    samples: Samples,
    tokens: Sequence[int],
    *,
    max_new_tokens: int = 200,
    language: str | None = None,
    context: str = "",
) -> None:
    """Fail unless `tokens` equal the output of greedy `generate` for a whole clip.

    If the two best logits are equal up to float32 rounding (`TIE`), the token depends on the order of additions on the
    CPU. Only in this case another token is accepted, and the tokens after it are not compared.
    """
    expected = generate(name, samples, max_new_tokens=max_new_tokens, language=language, context=context)
    if tuple(tokens) == expected:
        return
    model, processor = reference_parts(name)
    end = model.generation_config.eos_token_id[0]
    pairs = zip((*tokens, end), (*expected, end), strict=False)
    same = next(index for index, (token, other) in enumerate(pairs) if token != other)
    inputs = processor.apply_transcription_request([samples], language=language, prompt=context).to(DEVICE)
    prefix = torch.tensor([expected[:same]], dtype=torch.long, device=DEVICE)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], prefix], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.inference_mode():
        logits = model(**inputs).logits[0, -1]
    actual, wanted = (*tokens, end)[same], (*expected, end)[same]
    gap = float(logits[wanted] - logits[actual])
    assert gap < TIE, f"token {same} is {actual}, expected {wanted} (logits {gap:.3g} apart): {tokens} {expected}"


@cache
def spoken(text: str, voice: int = 0) -> Samples:
    """`text` in one of the held-out voices. The array is cached: do not modify it."""
    return speak(text, HELD_OUT[voice])


def long_speech(rng: np.random.Generator, seconds: float) -> Samples:
    """Sentences with pauses, noise and changes of level, `seconds` long."""
    sentences = [
        "Turn on the kitchen light.",
        "The meeting is on Monday the tenth of May.",
        "My number is four seven one.",
        "Wake me up at half past six.",
        "The green umbrella is in the hall.",
    ]
    parts: list[Samples] = []
    length = 0
    while length < seconds * 16_000:
        speech = spoken(sentences[int(rng.integers(len(sentences)))], int(rng.integers(len(HELD_OUT))))
        level = 10 ** rng.uniform(-2.5, 0)
        pause = np.zeros(int(rng.uniform(0, 1.5) * 16_000), dtype=np.float32)
        hiss = rng.standard_normal(len(speech)).astype(np.float32) * 10 ** rng.uniform(-5, -2)
        parts += [((speech + hiss) * level).astype(np.float32), pause]
        length += len(speech) + len(pause)
    return np.concatenate(parts)[: int(seconds * 16_000)]


def random_sizes(rng: np.random.Generator, total: int) -> list[int]:
    """Random chunk sizes from 1 sample to 3 s that add up to `total`."""
    sizes: list[int] = []
    while sum(sizes) < total:
        drawn = [int(rng.integers(1, 48_000)), int(rng.integers(16_000, 48_000))]
        size = int(rng.choice([1, 7, 160, 1600, 8000, *drawn]))
        sizes.append(min(size, total - sum(sizes)))
    return sizes


DEMO = Path(DEMO_FOLDER)
