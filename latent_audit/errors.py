"""The one exception that means: the user's input is wrong, and nothing has been computed yet."""

from latent_audit.text import printable


class InputError(ValueError):
    """Bad input; printed on stderr as one line without a traceback, exit status 2.

    The message may hold foreign text: what a terminal would act on is escaped here, once for all.
    """

    def __init__(self, message: object) -> None:
        super().__init__(printable(str(message)))
