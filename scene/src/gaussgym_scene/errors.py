"""The errors that callers and commands tell apart."""


class GaussgymError(Exception):
    """Anything a user can act on; commands print its text as one line and exit with status 2."""


class InputError(GaussgymError, ValueError):
    """Bad input. The text says what was found, what was expected, and what to do."""


class StageError(GaussgymError, RuntimeError):
    """A stage could not do its work on valid input, for example a gate that was not passed."""
