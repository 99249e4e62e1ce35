"""Processes that end without a word; in a file of their own, which another process can import quickly."""

import os
import signal


def killed(*arguments) -> None:
    """Tries to make whoever waits for the result wait for ever: the process is killed, as for want of memory."""
    os.kill(os.getpid(), signal.SIGKILL)
