"""The error a user can mend: printed as one line, without a stack trace."""

import errno


class UserError(ValueError):
    """A mistake in a setting, a file or a value; the message is one line: the value, the rule, the remedy."""


# Of a disk that takes no more: nothing is wrong with the command.
PLACE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
