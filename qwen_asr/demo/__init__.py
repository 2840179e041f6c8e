"""The bundled demo checkpoint, and what made it: a grammar, synthetic voices, a corpus, and the training."""
