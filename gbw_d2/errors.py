"""The error that ``train_net.py`` shows as one message, without a traceback."""


class UserError(ValueError):
    """Something outside the code is wrong; the message says what was found, expected, and to do."""
