"""What a scheduler tells of its work, for whoever measures it or watches over it. The engine itself reads no clock."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """What one pass over the model has to do.

    rows: passes of different utterances that run together. frames: log-mel frames (10 ms each) through the encoder.
    positions: positions through the decoder.
    """

    rows: int
    frames: int
    positions: int


class Observer:
    """Is told of a scheduler's work, on its thread, which serves every session: note it, and return.

    This one notes nothing; override what is wanted. Nothing here may raise.
    """

    def turn_begins(self) -> None:
        """The thread has work: passes are made ready, run, and their results handed on."""

    def pass_begins(self, load: Load) -> None:
        """The model is asked for one pass over the rows of `load`."""

    def turn_ends(self) -> None:
        """The results of this turn were handed on."""

    def step_begins(self, step: object) -> None:
        """A step was submitted, from any thread. `step` is the same object at its end."""

    def step_ends(self, step: object, failed: bool) -> None:
        """A step that was announced by `step_begins` is over, on any thread."""

    def out_of_memory(self) -> None:
        """The device, or this machine, had no memory for a pass."""
