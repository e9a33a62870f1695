"""Output that nobody may be there to take: a closed descriptor, a full disk, a pipe whose reader has gone.

What a program came to must not depend on whether its remarks could be written down.
"""

from __future__ import annotations

import os
from typing import TextIO


def put(stream: TextIO | None, text: str) -> OSError | None:
    """Write `text` and return None, or the error that kept it from being written.

    After an error the stream leads nowhere: the interpreter would try once more when it ends, and exit with a status
    of its own. A stream that was closed when the program started is None and takes nothing.
    """
    if stream is None:
        return None
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        return error
    return None
