"""Run by the tests of artifacts as a child: appends a line to a log, then writes a file, or fails when told to."""

import sys
from pathlib import Path

log, instruction, target = sys.argv[1:]
with Path(log).open("a") as stream:
    stream.write("made\n")
if instruction == "fail":
    sys.exit("the weights are not there")
Path(target, "content").write_text("42")
