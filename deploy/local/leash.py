"""`leash.py PARENT COMMAND...` becomes COMMAND, which the kernel kills when its parent, PARENT, dies.

A program of its own rather than a `preexec_fn`: that would run between fork and exec in a process that uses gRPC,
which is where gRPC crashes. What prctl sets survives exec.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):  # it died before the leash was on
        sys.exit(1)
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - the command that our parent gave
