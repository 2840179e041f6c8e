"""The Python API: `Qwen3ASRModel` and `Qwen3ForcedAligner`, in modules named as those of Qwen's own package."""
