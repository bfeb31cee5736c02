"""Failures with a cause that the user can act on, and untrusted text that is safe in their
messages.

Everything below the command line raises `DalleError`; the command line prints its message as
`error:` and its hint as `hint:`, and exits with its exit code. Captions and the names of files and
tensors may come from strangers: `printable` makes them fit for a terminal.
"""

import re

# C0 except tab, DEL, C1, and the marks, embeddings, overrides and isolates of text direction
CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
SURROGATE = re.compile("[\ud800-\udfff]")


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


def printable(text: str) -> str:
    """Replace characters that must not reach a terminal with U+FFFD.

    These are control and text-direction characters, and those that cannot be encoded.
    """
    return SURROGATE.sub("\ufffd", CONTROL.sub("\ufffd", text))
