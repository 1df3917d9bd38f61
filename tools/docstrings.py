"""Lists docstrings that begin with a question word; `--check` fails if they are 2 % or more of all."""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("services", "clients", "deploy", "tools", "bench", "drills")
QUESTION_WORDS = {"what", "which", "how", "whether", "where", "who", "whom", "whose", "why", "when"}
MOST = 0.02


def modules(root: Path = ROOT) -> list[Path]:
    """Tracked Python files of the product."""
    listed = subprocess.run(["git", "ls-files", "--", *FOLDERS], cwd=root, check=True, capture_output=True, text=True)
    files = [root / name for name in listed.stdout.splitlines() if name.endswith(".py")]
    return [file for file in files if file.exists()]


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring of modules, classes, functions and attributes."""
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        for before, statement in zip([node if documented else None, *body], body, strict=False):
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))) if before is node or isinstance(
                    before, ast.Assign | ast.AnnAssign
                ):
                    yield statement.lineno, text


def is_question(text: str) -> bool:
    """True if the first word of a docstring is a question word."""
    words = text.split(maxsplit=1)
    return bool(words) and words[0].strip("\"'`*,:;.?").lower() in QUESTION_WORDS


def main() -> None:
    """Print offenders and their share, and exit with 1 if `--check` is given and the share is too high."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help=f"fail if {MOST:.0%} or more begin with a question word")
    check = parser.parse_args().check
    total = offending = 0
    for file in modules():
        for line, text in docstrings(file.read_text(encoding="utf-8")):
            total += 1
            if is_question(text):
                offending += 1
                print(f"{file.relative_to(ROOT)}:{line}: {text.strip().splitlines()[0]}")
    share = offending / total if total else 0.0
    print(f"{offending} of {total} docstrings begin with a question word: {share:.1%}, allowed: below {MOST:.0%}")
    if check and share >= MOST:
        sys.exit(1)


if __name__ == "__main__":
    main()
