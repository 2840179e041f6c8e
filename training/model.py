"""An untrained model with the Qwen3-ASR architecture at demo size, and its processor.

Tests also build random checkpoints with this module. The sizes are arguments; the layout is that of Qwen's checkpoints.
"""

import json
import random

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from tokenizers import Regex as TokenizerRegex
from transformers import (
    GenerationConfig,
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRProcessor,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX, Qwen2Tokenizer

from qwen_asr.engine.checkpoint import CHAT_TEMPLATE, TOKEN_NAMES
from training.grammar import sentence

VOCABULARY_SIZE = 632
# The names in Qwen's checkpoints. <asr_text> and <timestamp> are ordinary added tokens, so decoding keeps them.
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>")
ORDINARY_TOKENS = ("<asr_text>", "<timestamp>")


def train_tokenizer(seed: int = 0) -> Qwen2Tokenizer:
    """Byte-level BPE with Qwen's pre-tokenizer, trained on the grammar's sentences."""
    rng = random.Random(seed)
    prompt_words = ["system\n", "user\n", "assistant\n", "language English", "language None"] * 2000
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(TokenizerRegex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(SPECIAL_TOKENS) - len(ORDINARY_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator([sentence(rng) for _ in range(20_000)] + prompt_words, trainer)
    bpe = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=bpe["vocab"],
        merges=[tuple(merge) for merge in bpe["merges"]],  # type: ignore[misc]  # the annotation is wrong: these are pairs
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=TOKEN_NAMES,
    )
    tokenizer.add_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, special=False) for token in ORDINARY_TOKENS])
    return tokenizer


def build_processor() -> Qwen3ASRProcessor:
    """The processor of Qwen's checkpoints with the small tokenizer."""
    return Qwen3ASRProcessor(
        feature_extractor=Qwen3ASRFeatureExtractor(), tokenizer=train_tokenizer(), chat_template=CHAT_TEMPLATE
    )


def build_model(
    processor: Qwen3ASRProcessor,
    *,
    width: int = 128,
    encoder_layers: int = 4,
    decoder_layers: int = 4,
    channels: int = 24,
    seed: int = 0,
) -> Qwen3ASRForConditionalGeneration:
    """A model with random weights (float32, evaluation mode) of the given sizes, reproducible by `seed`."""
    tokenizer = processor.tokenizer
    token_id = tokenizer.convert_tokens_to_ids
    config = Qwen3ASRConfig(
        audio_config={
            "d_model": width,
            "encoder_layers": encoder_layers,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 4 * width,
            "downsample_hidden_size": channels,
            "output_dim": width,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": decoder_layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": width // 4,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
        },
        audio_token_id=token_id("<|audio_pad|>"),
        timestamp_token_id=token_id("<timestamp>"),
        pad_token_id=token_id("<|endoftext|>"),
        eos_token_id=[token_id("<|endoftext|>"), token_id("<|im_end|>")],
    )
    torch.manual_seed(seed)
    model = Qwen3ASRForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id, do_sample=False, max_new_tokens=512
    )
    model.eval()
    return model
