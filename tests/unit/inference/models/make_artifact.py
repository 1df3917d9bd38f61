"""Run by the tests of artifacts as a child: adds a line to a log, then writes a file, or does as it is told."""

import os
import signal
import sys
from pathlib import Path

log, instruction, target = sys.argv[1:]
with Path(log).open("a", encoding="utf-8") as stream:
    stream.write("made\n")
if instruction == "fail":
    sys.exit("the weights are not there")
if instruction == "wait":
    Path(f"{log}.pid").write_text(str(os.getpid()), encoding="utf-8")
    signal.pause()
Path(target, "content").write_text("42", encoding="utf-8")
