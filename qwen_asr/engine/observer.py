"""`Observer`: the interface through which the scheduler reports its work, for metrics and the watchdog."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PassSize:
    """The work of one pass of the model.

    rows: utterances whose passes run together. frames: log-mel frames (10 ms each) through the encoder. positions:
    positions through the decoder.
    """

    rows: int
    frames: int
    positions: int


class Observer:
    """Receives reports of a scheduler's work. This one ignores them: override the methods you need.

    Those of iterations, passes and memory are called on the thread that owns the model, those of deliveries on the
    thread for results, and those of steps on any thread. All of them serve all sessions, so they must return at once
    and never raise.
    """

    def iteration_started(self) -> None:
        """The scheduler has work: it collects passes, runs them, and returns their results."""

    def pass_started(self, size: PassSize) -> None:
        """The model runs one pass over the rows of `size`."""

    def iteration_ended(self) -> None:
        """The results of this iteration were returned."""

    def delivery_started(self) -> None:
        """The outcome of a step is handed over, and its callbacks run."""

    def delivery_ended(self) -> None:
        """Those callbacks have returned."""

    def step_started(self, step: object) -> None:
        """A step was submitted, from any thread. `step` is the same object when it ends."""

    def step_ended(self, step: object, failed: bool) -> None:
        """A step that `step_started` announced has ended, on any thread."""

    def out_of_memory(self) -> None:
        """There was not enough memory for a pass, on the device or in the machine."""
