"""The one exception that means: the user's input is wrong, and nothing has been computed yet."""


class InputError(ValueError):
    """Bad input; main.py prints the message on stderr without a traceback and exits with status 2."""
