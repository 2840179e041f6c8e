"""Live sessions: one speaker's audio in, partial and final texts out, as events.

`session` is the state machine, `runner` runs it on the scheduler, `alignment` keeps track of the words whose times are
being found, `guards` correct known failures of the model, `settling` decides which text is settled, `transcript` keeps
the history, `subtitles` writes finals as files.
"""
