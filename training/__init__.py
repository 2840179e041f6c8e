"""What made the bundled demo checkpoint: a grammar, synthetic voices, a corpus, and the training."""
