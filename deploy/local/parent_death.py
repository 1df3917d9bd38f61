"""Run a command that dies with its parent: `parent_death.py PARENT COMMAND...`.

Sets the parent-death signal, which survives exec, and becomes COMMAND. A program of its own because a `preexec_fn`
runs between fork and exec, and gRPC crashes there.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):  # the parent died before the signal was set
        sys.exit(1)
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - the command that our parent gave
