"""Hypotheses in, events out: what a person or a client sees.

`session` turns one speaker's audio into steps and events, `runner` drives it, `transcript` says what is settled and
keeps the history, `guards` keep the model's known failures away, `subtitles` write the finals down.
"""
