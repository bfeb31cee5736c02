"""Failures with a cause that the user can act on.

Everything below the command line raises `DalleError`; the command line prints its message as
`error:` and its hint as `hint:`, and exits with its exit code.
"""


class DalleError(Exception):
    """A failure with a known cause; exits with code 1 unless another code is given.

    message    one sentence that says what is wrong
    hint       one sentence that says what to do about it, or ""
    exit_code  overrides the default of the class
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "", *, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code


class UsageError(DalleError):
    """A command line or a recipe that cannot be right; exits with code 2."""

    exit_code = 2
