"""The one error of this package."""


class ConfigError(Exception):
    """The configuration can't be used. str() is for a person, `exit_code` for the shell."""

    exit_code = 1
    files: tuple[str, ...] = ()  # that were read, or looked for, until it was found
