"""What people are told when ZeroGPU lends no GPU, or takes it back."""

from __future__ import annotations

import html
import re

import gradio as gr

OUT_OF_REACH = "Hugging Face's GPU scheduler cannot be reached: try again in a minute. The log of the Space says more."
_TAG = re.compile(r"<[^>]*>")
_OWN_TITLE = "Error"  # Gradio's default
_NO_GPU = "No GPU was available"


def explain(error: gr.Error, seconds: int) -> str:
    """A sentence for an error of a GPU task that asked for so many `seconds`: what happened, and what to do.

    `spaces` (0.51) tells its errors apart by their titles only. What is not one of its own is returned as it is.
    """
    title = str(error.title)
    details = html.unescape(_TAG.sub("", str(error.message))).strip()
    if title == _OWN_TITLE:
        return details
    if title == "ZeroGPU queue timeout" or details.startswith(_NO_GPU):
        return "No GPU was free within a minute: try again later. Visitors who log in to Hugging Face go first."
    if title == "ZeroGPU quota exceeded":
        known = f"{details} " if details.startswith("You have") else ""  # with the seconds that are left
        return (
            f"Your GPU time of today does not suffice for this clip. {known}Transcribe a shorter one, or log in to "
            "Hugging Face for more GPU time."
        )
    if title == "ZeroGPU pending credits exceeded":
        return f"{details} Then press Transcribe again."
    if title == "ZeroGPU illegal duration":
        return (
            f"The clip asks for {seconds} seconds of GPU time, which is more than one call may have: cut it into parts."
        )
    if title == "ZeroGPU worker error" and details == "GPU task aborted":
        return (
            f"The GPU was taken back before the clip was transcribed: it may have needed more than {seconds} seconds. "
            "Try again, or transcribe a shorter part of it."
        )
    if title == "ZeroGPU worker error":
        return (
            f"The recognizer failed on the GPU ({details.strip(chr(39))}): try again. The log of the Space says more."
        )
    if "token" in details:
        return "This page has been open for too long for Hugging Face to know you: reload it, and try again."
    return f"Hugging Face lent no GPU ({details}): try again in a minute."
