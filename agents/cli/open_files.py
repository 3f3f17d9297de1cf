"""Open files: a run with many connections needs more of them than a shell allows by default."""

from __future__ import annotations

import resource

from common.console import BadInput

_OTHER_FILES = 200
"""Open files beside the connections: libraries, rows, the trace store."""


def allow_connections(most: int) -> None:
    """Raise this process's limit on open files where it would not do: its error would look like the endpoint's.

    Raises BadInput when this user may not have so many.
    """
    needed = most + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BadInput(f"concurrency: needs {needed} open files, and this user may have {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
