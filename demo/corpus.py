"""The standard library's documentation as passages.

Importing the whole standard library has side effects, so a child process does it, silenced and with a time limit
(`python -m demo.corpus FILE`, nothing but the standard library needed); `load` runs it once and keeps the passages.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

Kind = Literal["module", "class", "function", "method", "property"]

TEXT_LIMIT = 1200
"""Characters of text kept. A docstring says what it is about first, and the models read 256 tokens, about this much."""
_SIGNATURE_LIMIT = 200
_IMPORT_SECONDS = 120

# What is not documentation of the standard library, and why.
_SKIPPED = {
    "antigravity": "opens a web browser",
    "this": "prints a poem",
    "idlelib": "an application, and needs Tk",
    "turtledemo": "opens windows",
    "test": "Python's own tests",
    "lib2to3": "gone in 3.13, and its fixers are no interface",
    "distutils": "gone in 3.12, and setuptools may stand in for it",
    "encodings": "a module for every encoding, and the same words in each; codecs has them too",
    "pydoc_data": "the language reference as one module",
    "ntpath": "os.path of another system",
    "nt": "what os is made of on Windows",
    "posix": "what os is made of",
    "genericpath": "what os.path is made of",
    "sre_compile": "what re is made of",
    "sre_constants": "what re is made of",
    "sre_parse": "what re is made of",
}
_NOT_MODULES = {"test", "tests", "__main__"}
# Docstrings that Python writes itself; they say nothing about the thing.
_GENERATED = re.compile(r"Alias for field number|An enumeration\.$|partial\(func, \*args")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class CorpusError(Exception):
    """The standard library's documentation could not be collected."""


@dataclass(frozen=True, slots=True)
class Passage:
    """The documentation of one thing."""

    title: str
    """Its public name, as in `concurrent.futures.ThreadPoolExecutor.submit`; unique."""
    text: str
    """Its signature, where Python knows it, and its docstring."""
    module: str
    """The module that it is imported from."""
    kind: Kind


@dataclass(frozen=True)
class Corpus:
    """All passages, by title."""

    passages: tuple[Passage, ...]

    def overview(self) -> Corpus:
        """Return modules, classes and functions alone, without what belongs to a class: half of it."""
        return Corpus(tuple(one for one in self.passages if one.kind in ("module", "class", "function")))

    @cached_property
    def digest(self) -> str:
        """Digest of the content."""
        content = hashlib.sha256()
        for passage in self.passages:
            content.update(_line(passage).encode())
        return content.hexdigest()[:12]


def load(folder: Path) -> Corpus:
    """Load the corpus of this interpreter, kept in a file.

    Raises CorpusError.
    """
    # Another interpreter, or another release of this file, collects afresh.
    key = hashlib.sha256(
        "\n".join([sys.version, sys.base_prefix, Path(__file__).read_text(encoding="utf-8")]).encode()
    ).hexdigest()
    kept = folder / f"stdlib-{sys.version_info.major}.{sys.version_info.minor}-{key[:12]}.jsonl"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _collect_in_child(kept)
    with kept.open(encoding="utf-8") as lines:
        return Corpus(tuple(Passage(**json.loads(line)) for line in lines))


def _collect_in_child(kept: Path) -> None:
    partial = kept.with_suffix(f".{os.getpid()}")
    # A fixed hash seed, because signatures show sets; no display and no browser, whatever a module tries.
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore"}
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        environment.pop(name, None)
    try:
        subprocess.run(  # noqa: S603 - our own file, run by our own interpreter
            [sys.executable, "-P", str(Path(__file__).resolve()), str(partial.resolve())],
            check=True,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_IMPORT_SECONDS,
        )
        partial.replace(kept)
    except (subprocess.SubprocessError, OSError) as error:
        raise CorpusError(
            f"could not collect the standard library's documentation: {error}; "
            f"to see why, run: {sys.executable} {Path(__file__).resolve()} /dev/stdout"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def collect() -> list[Passage]:
    """Import and read the whole standard library, in its own process."""
    modules = {name: module for name in _module_names() if (module := _imported(name)) is not None}
    named = _public_names(modules)
    passages: dict[str, Passage] = {}
    told: set[int] = set()  # members of hidden base classes are told by the first class that has them

    def add(title: str, owner: str, kind: Kind, doc: str, signature: str = "") -> None:
        name = title.rpartition(".")[2]
        if doc and doc != name and not _GENERATED.match(doc):
            text = f"{name}{signature}\n\n{doc}" if signature else doc
            passages.setdefault(title, Passage(title, _cut(text), owner, kind))

    def add_class(title: str, owner: str, subject: type) -> None:
        own = vars(subject)
        constructor = own.get("__init__")
        docs = (_cleaned(own.get("__doc__")), _cleaned(constructor.__doc__) if inspect.isfunction(constructor) else "")
        add(title, owner, "class", "\n\n".join(filter(None, docs)), _signature(subject))
        # What a public base class has is told there.
        for base in [subject, *(base for base in subject.__mro__[1:] if id(base) not in named)]:
            for name, member in vars(base).items():
                if not name.startswith("_"):
                    add_member(f"{title}.{name}", owner, base, member)

    def add_member(title: str, owner: str, base: type, member: object) -> None:
        if isinstance(member, type):
            if member.__qualname__.startswith(f"{base.__qualname__}."):
                add_class(title, owner, member)
        elif isinstance(member, (property, cached_property)) or _is_function(member):
            subject = _function(member)
            if id(subject) not in named and id(subject) not in told:
                told.add(id(subject))
                if _is_function(member):
                    add(title, owner, "method", _cleaned(subject.__doc__), _signature(subject))
                else:
                    add(title, owner, "property", _cleaned(subject.__doc__))

    for name, module in modules.items():
        add(_public(name), _public(name), "module", _cleaned(module.__doc__))
    for name, owner, subject in named.values():
        title = name if owner == "builtins" else f"{owner}.{name}"
        if isinstance(subject, type):
            add_class(title, owner, subject)
        else:
            add(title, owner, "function", _cleaned(subject.__doc__), _signature(subject))
    return sorted(passages.values(), key=lambda passage: passage.title)


def _module_names() -> Iterator[str]:
    """List all public modules."""
    for name in sorted(sys.stdlib_module_names):
        if not name.startswith("_") and name not in _SKIPPED:
            yield name
            yield from _submodule_names(name)


def _submodule_names(package: str) -> Iterator[str]:
    module = _imported(package)
    for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if not found.name.startswith("_") and found.name not in _NOT_MODULES:
            yield f"{package}.{found.name}"
            if found.ispkg:
                yield from _submodule_names(f"{package}.{found.name}")


def _imported(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit):  # a module of another system, or without its C library, raises what it likes
        return None


def _public(module: str) -> str:
    return "os.path" if module == os.path.__name__ else module


def _public_names(modules: Mapping[str, ModuleType]) -> dict[int, tuple[str, str, Any]]:
    """List all public classes and functions, under their canonical names.

    That is the one in the shortest module, so `asyncio.Lock` rather than `asyncio.locks.Lock`; among equals the one
    where it was defined, under the name it was given there.
    """
    best: dict[int, tuple[tuple[object, ...], tuple[str, str, Any]]] = {}
    for module_name, module in modules.items():
        owner = _public(module_name)
        for name in _exported(module):
            found = getattr(module, name, None)
            if not (isinstance(found, type) or _is_function(found)):
                continue
            subject: Any = found if isinstance(found, type) else _function(found)
            rank = (
                0 if owner == "builtins" else owner.count(".") + 1,
                getattr(subject, "__module__", None) != module_name,
                getattr(subject, "__name__", None) != name,
                f"{owner}.{name}",
            )
            if id(subject) not in best or rank < best[id(subject)][0]:
                best[id(subject)] = (rank, (name, owner, found))
    return {identity: chosen for identity, (_, chosen) in best.items()}


def _exported(module: ModuleType) -> Iterable[str]:
    """List the public names of a module, also of one in C."""
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if module.__name__ in ("builtins", str(getattr(value, "__module__", None)).lstrip("_"))
    ]
    return [name for name in names if not name.startswith("_")]


def _is_function(value: object) -> bool:
    return isinstance(value, (staticmethod, classmethod)) or inspect.isroutine(value)


def _function(value: Any) -> Any:
    """Find the function behind a method, as of `random.random`."""
    return getattr(value, "__func__", value)


def _cleaned(doc: object) -> str:
    return inspect.cleandoc(doc).strip() if isinstance(doc, str) else ""


def _signature(documented: Any) -> str:
    try:
        shown = str(inspect.signature(documented))
    except Exception:  # of many functions written in C Python knows none, or one that it cannot read
        return ""
    return _ADDRESS.sub("", shown) if len(shown) <= _SIGNATURE_LIMIT else "(...)"


def _cut(text: str) -> str:
    """The beginning of a text, at a word's end."""
    return text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT].rsplit(None, 1)[0]


def _line(passage: Passage) -> str:
    return json.dumps(asdict(passage), ensure_ascii=False) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text("".join(map(_line, collect())), encoding="utf-8")
