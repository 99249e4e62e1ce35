"""SIGINT and SIGTERM: where nothing would be lost the run stops at once, elsewhere as soon as its state is written."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step and what to do."""


class Interrupted(TrainingError):
    """SIGINT or SIGTERM: all that a resumed run needs is on the disk."""


class Disturbed(TrainingError):
    """What the run needs of its machine failed, a disk or another process; a resumed run goes on."""


class _Signalled(BaseException):
    """What a signal raises wherever it finds the run; no Exception, so that nobody takes it for their failure."""


class Stop:
    """Whether a signal asked to stop. `message` is what `Interrupted` says; the run keeps it up to date."""

    def __init__(self) -> None:
        self.requested = False
        self.message = ""
        self._deferred = False

    def request(self) -> None:
        self.requested = True
        if not self._deferred:
            raise _Signalled

    def check(self) -> None:
        """Raises: Interrupted, if a signal asked to stop."""
        if self.requested:
            raise Interrupted(self.message)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal only sets `requested`."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Inside, SIGINT and SIGTERM ask to stop; the second one of a kind does what it did before."""
    stop = Stop()
    previous = {}

    def handler(number, frame) -> None:
        signal.signal(number, previous[number])
        stop.request()

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            previous[number] = signal.signal(number, handler)
        except ValueError:  # not in the main thread: the caller handles signals
            break
    try:
        yield stop
    except _Signalled:
        raise Interrupted(stop.message) from None
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
