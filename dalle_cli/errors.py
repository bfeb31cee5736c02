"""What a user can cause: one sentence that says what is wrong, one that says what to do, an exit code.

Everything below the command line raises `DalleError`; the command line prints it as `error:` and `hint:`.
"""


class DalleError(Exception):
    """A failure with a known cause: exit code 1."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DalleError):
    """A command line or a recipe that cannot be right: exit code 2."""

    exit_code = 2
