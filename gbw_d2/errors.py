"""The error that ``train_net.py`` shows as one message, without a traceback."""


class UserError(ValueError):
    """An error outside the code; its message says what was found, expected, and what to do."""
