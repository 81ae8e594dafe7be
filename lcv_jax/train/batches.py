"""Where batches come from."""

from typing import Any, Protocol


class Batches(Protocol):
    """An endless source of batches whose position can be saved.

    The position is the run's, the same on every process, of JSON's types: what was consumed so far, so that a source on
    any number of processes continues behind it. A source that reads ahead tells where its consumer stands, not itself.
    """

    def __next__(self) -> Any:
        """The next batch, on its devices: every leaf has the samples of all processes on its first axis."""

    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> None: ...
