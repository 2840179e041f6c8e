"""Inference without the compiler, scipy and parallel training; all of it can be imported later."""

from __future__ import annotations

import sys

import pytest

from qwen_asr.engine.device.inference_only import for_inference_only
from tests.support.commands import run

LOAD = """
import sys
import numpy as np
from qwen_asr.engine.device.inference_only import for_inference_only

HEAVY = {"scipy", "torch._dynamo", "torch._inductor", "torch.distributed.tensor", "torch.distributed.fsdp"}

def load():
    from qwen_asr.engine.aligner import load_with_aligner
    return load_with_aligner("demo", "cpu")

recognizer = for_inference_only(load)
from qwen_asr.engine.streaming import Utterance
samples = np.random.default_rng(0).normal(0, 0.01, 16_000).astype(np.float32)
tokens = Utterance(recognizer).feed(samples).tokens
"""
USE_THE_REST = """
from transformers.utils import import_utils
assert import_utils.is_scipy_available() and import_utils.is_torch_distributed_available()
inputs = recognizer.processor.apply_transcription_request(samples)
generated = recognizer.model.generate(**inputs, max_new_tokens=32)[0, inputs["input_ids"].shape[1] :].tolist()
assert generated[: len(tokens)] == list(tokens), (generated, tokens)

import scipy.optimize, torch, torch._dynamo, torch.distributed.fsdp, torch.distributed.tensor
assert torch.distributed.is_available()
assert torch._dynamo.is_dynamo_supported()
norm = recognizer.model.model.audio_tower.ln_post
hidden = torch.ones(2, norm.normalized_shape[0])
assert torch.equal(torch.compile(norm, backend="eager")(hidden), norm(hidden))
# The class that a function stood in for.
from transformers import masking_utils
assert type(masking_utils.TransformGetItemToIndex()).__module__ == "torch._dynamo._trace_wrapped_higher_order_op"
"""


def python(script: str) -> None:
    """Runs a script in a fresh interpreter."""
    done = run(sys.executable, "-c", script)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_what_inference_does_not_need_is_not_imported_and_works_when_it_is() -> None:
    python(f"{LOAD}\nassert not HEAVY & set(sys.modules), HEAVY & set(sys.modules)\n{USE_THE_REST}")


OTHER_VERSIONS = {
    "a module imports another name of the compiler": "import qwen_asr.engine.device.inference_only as module\n"
    "module.COMPILER_CLASS = 'AnotherName'",
    "a guard remembers no answer": "from transformers.utils import import_utils as module\n"
    "module.is_scipy_available = module.is_scipy_available.__wrapped__",
    "loading needs the compiler": "import torch\n"
    "to = torch.nn.Module.to\n"
    "torch.nn.Module.to = lambda *arguments: torch._dynamo.is_dynamo_supported() and to(*arguments)",
}


@pytest.mark.slow
@pytest.mark.parametrize("other", OTHER_VERSIONS)
def test_what_another_version_needs_is_imported(other: str) -> None:
    python(f"{OTHER_VERSIONS[other]}\n{LOAD}\nassert 'torch._dynamo' in sys.modules\n{USE_THE_REST}")


@pytest.mark.slow
def test_nothing_changes_where_transformers_is_in_use() -> None:
    import transformers.modeling_utils  # noqa: F401 - what an earlier user has imported

    before = dict(sys.modules)
    assert for_inference_only(lambda: dict(sys.modules)) == before == dict(sys.modules)
