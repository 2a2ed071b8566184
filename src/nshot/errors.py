"""The one error class for mistakes that a user can make and mend."""


class UserError(ValueError):
    """A wrong value from the user: the message is one line that names the value and the remedy.

    The command line prints it and exits with status 2; in Python it is an ordinary ``ValueError``.
    """
