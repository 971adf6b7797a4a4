"""The error a user can mend: printed as one line, without a stack trace."""


class UserError(ValueError):
    """A mistake in a setting, a file or a value; the message is one line: the value, the rule, the remedy."""
