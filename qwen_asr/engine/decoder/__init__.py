"""The text decoder: many utterances in one pass, over one pool of keys and values.

`forward` is the model, `attention`, `kv_pool` and `packing` are what a pass is made of, `fixed_passes` captures passes
as CUDA graphs, `int8` holds weights in a byte each, and `drafts` proposes the tokens that a pass verifies.
"""
