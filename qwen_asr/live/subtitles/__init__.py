"""Finals as files: `formats` writes them, with `cues` that fit a screen, whose lines `line_breaks` finds."""
