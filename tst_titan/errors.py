"""The one exception for mistakes that a user can mend."""

from tst_titan.shown import printable


class UserError(ValueError):
    """A mistake of the user's: `where` it is (a file, a key, a segment) and `what` it is, with the mend.

    Commands print it as one message, ``where: what``, without a traceback and exit with status 2. Anything else that
    escapes a command is a defect of ours and keeps its traceback.
    """

    def __init__(self, what: str, *, where: object = ""):
        super().__init__(what)
        self.what, self.where = what, str(where)

    def __str__(self) -> str:
        # It may quote what a file of somebody else's holds.
        return printable(f"{self.where}: {self.what}" if self.where else self.what)
