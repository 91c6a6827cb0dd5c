"""Signals of the processes that run an asyncio loop."""

import asyncio
import signal


def ignore(loop: asyncio.AbstractEventLoop, *numbers: int) -> None:
    """In a process that ends: the supervisor may say it once more while the loop is being closed, and a signal that
    finds its pipe closed is a fault in the log."""
    for number in numbers:
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)
