"""The one exception for mistakes that a user can mend."""

from tst_titan.shown import printable


class UserError(ValueError):
    """A mistake of the user's: its message names the file, the key or value, and the mend.

    Commands print it as one message without a traceback and exit with status 2. Anything else that
    escapes a command is a defect of ours and keeps its traceback.
    """

    def __str__(self) -> str:
        # It may quote what a file of somebody else's holds.
        return printable(super().__str__())
