"""Credentials as a type that does not print itself."""

import hashlib


class Secret:
    """A credential; shows as `sk-…abcd` wherever it is printed, formatted or logged."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The credential itself."""
        return self._value

    def digest(self) -> str:
        """SHA-256 in hex: what a key is looked up by."""
        return hashlib.sha256(self._value.encode()).hexdigest()

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        if len(self._value) < 12:  # four characters of a short one would tell too much
            return "sk-…"
        return f"{'sk-' if self._value.startswith('sk-') else ''}…{self._value[-4:]}"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a Secret is not to be serialised")
