"""Command lines: what the commands have in common. Knows none of them."""

import argparse
import difflib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Takes flags with _ and with -, tells a mistake in one line instead of a screen, guesses what was meant."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        self.exit(2, f"{self.prog}: {message}\nTry '{self.prog} --help'.\n")

    def parse_args(  # type: ignore[override]  # no command passes a namespace of its own
        self, args: Sequence[str] | None = None, namespace: None = None
    ) -> argparse.Namespace:
        """The arguments; ends the program on what it does not know."""
        words = sys.argv[1:] if args is None else args
        known, unknown = self.parse_known_args([self._spelt(word) for word in words])
        if unknown:
            word = unknown[0].partition("=")[0]
            kind = "flag" if word.startswith("-") else "argument"
            near = difflib.get_close_matches(word, self._option_string_actions, 1)
            self.error(f"unknown {kind}: {word}" + (f" (did you mean {near[0]}?)" if near else ""))
        return known

    def _spelt(self, word: str) -> str:
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            for spelling in (name[2:].replace("-", "_"), name[2:].replace("_", "-")):
                if f"--{spelling}" in self._option_string_actions:
                    return f"--{spelling}{equals}{value}"
        return word


def port(text: str) -> int:
    """The type of a --port."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text!r}")
    return int(text)


def count(text: str) -> int:
    """The type of a number of things: at least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number from 1 is expected, not {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """The type of a duration."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"a number of seconds is expected, not {text!r}")
    return value
