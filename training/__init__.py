"""Training of the bundled demo checkpoint: the grammar, the synthetic voices, the corpus and the loop."""
