"""The files of a new stage are no tests of ours."""

collect_ignore = ["stage"]
