"""Checks house rules that no linter knows: first lines of docstrings, limits of size, and readers that would run code.

`python tools/house_rules.py` prints offenders; `--check` fails if a limit is passed, if a file could run what is in it,
or if 2 % of all docstrings begin with a question word.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("services", "clients", "deploy", "tools", "bench", "drills")
MODULES_IN_A_FOLDER = 15
LINES_IN_A_MODULE = 450
LINES_IN_THE_README = 150
SHARE_OF_QUESTIONS = 0.02
# Of numpy, torch, and transformers: with these a file that is read may run what is in it.
UNSAFE_ARGUMENTS = {"allow_pickle": True, "weights_only": False, "trust_remote_code": True}
QUESTION_WORDS = {"what", "which", "how", "whether", "where", "who", "whom", "whose", "why", "when"}


def modules() -> list[Path]:
    """Tracked Python files of the product, relative to the root."""
    listed = subprocess.run(["git", "ls-files", "--", *FOLDERS], cwd=ROOT, check=True, capture_output=True, text=True)
    return [Path(name) for name in listed.stdout.splitlines() if name.endswith(".py") and (ROOT / name).exists()]


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


def unsafe_readers(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of every call that may run what it reads, or of the argument by which it may."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        if ast.unparse(node.func) == "torch.load":
            yield node.lineno, "torch.load"
        for given in node.keywords:
            safe = UNSAFE_ARGUMENTS.get(given.arg or "")
            if safe is not None and not (isinstance(given.value, ast.Constant) and given.value.value is (not safe)):
                yield node.lineno, f"{given.arg}={ast.unparse(given.value)}"


def over_limits(files: list[Path]) -> list[str]:
    """Folders and files that are over a limit; migrations have none."""
    files = [file for file in files if "migrations" not in file.parts]
    folders = Counter(file.parent for file in files if file.name != "__init__.py")
    found = [
        f"{folder}: {count} modules, at most {MODULES_IN_A_FOLDER}"
        for folder, count in folders.items()
        if count > MODULES_IN_A_FOLDER
    ]
    for file, most in [*((file, LINES_IN_A_MODULE) for file in files), (Path("README.md"), LINES_IN_THE_README)]:
        lines = len((ROOT / file).read_text(encoding="utf-8").splitlines())
        if lines > most:
            found.append(f"{file}: {lines} lines, at most {most}")
    return found


def main() -> None:
    """Print what breaks a rule; with `--check`, exit with 1 if a rule is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a rule is broken")
    check = parser.parse_args().check
    files = modules()
    problems = over_limits(files)
    problems += [
        f"{file}:{line}: {argument} lets a file run code"
        for file in files
        for line, argument in unsafe_readers((ROOT / file).read_text(encoding="utf-8"))
    ]
    found = [(file, *each) for file in files for each in docstrings((ROOT / file).read_text(encoding="utf-8"))]
    questions = [f"{file}:{line}: {text.split(chr(10))[0]}" for file, line, text in found if is_question(text)]
    if len(questions) >= SHARE_OF_QUESTIONS * len(found):
        problems.append(f"{len(questions)} of {len(found)} docstrings begin with a question word; allowed: below 2 %")
    print("\n".join([*questions, *problems]) or "all house rules hold")
    sys.exit(check and bool(problems))


if __name__ == "__main__":
    main()
