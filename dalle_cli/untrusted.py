"""Making untrusted text (captions, file names) safe to show.

Knows nothing of where the text comes from.
"""

import re

# C0 except tab, DEL, C1, and the marks, embeddings, overrides and isolates of text direction
CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
SURROGATE = re.compile("[\ud800-\udfff]")


def printable(text: str) -> str:
    """Replace characters that must not reach a terminal with U+FFFD.

    These are control and text-direction characters, and those that cannot be encoded.
    """
    return SURROGATE.sub("\ufffd", CONTROL.sub("\ufffd", text))
