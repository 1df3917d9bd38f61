"""Files that somebody else wrote: whatever reads them refuses pickles, and runs nothing of what is in them."""

import builtins
import hashlib
import io
import json
import os
import pickle
import runpy
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from services.chassis.errors import StartupError
from services.inference.models.info import ModelKind
from services.inference.models.layout import UnknownModelError, read_spec, tensors_of
from services.inference.models.resolver import resolve_model
from services.retriever.backups.format import read_part, write_part
from services.retriever.documents import Passage
from services.retriever.engines.edge.journal import Journal
from services.retriever.engines.edge.wire import LENGTH, message_of
from services.retriever.importing import ImportFailed, OldVersion
from services.retriever.lexical import SparseVector
from services.retriever.store import Row, point_id

PROTOCOLS = (0, 2, 4, 5)


class Call:
    """Pickles as a call, which happens when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def calls(mark):
    """Return five ways of making a file by being unpickled."""
    script = mark.with_name("script.py")
    script.write_text(f"open({str(mark)!r}, 'w').close()")
    return {
        "a shell": Call(os.system, f"touch {mark}"),
        "a process": Call(subprocess.run, [sys.executable, str(script)]),
        "an evaluation": Call(builtins.eval, f"open({str(mark)!r}, 'w').close()"),
        "a script": Call(runpy.run_path, str(script)),
        "a copy": Call(shutil.copy, str(script), str(mark)),
    }


@pytest.fixture(params=[(name, protocol) for name in calls(Path("/tmp/x")) for protocol in PROTOCOLS], ids=str)
def payload(request, tmp_path):
    """Bytes that make a file if anything unpickles them; after the test it must not be there."""
    mark = tmp_path / "taken over"
    name, protocol = request.param
    body = pickle.dumps([calls(mark)[name]], protocol)
    yield body
    assert not mark.exists()


def test_these_payloads_do_run_when_they_are_unpickled(tmp_path):
    for protocol in PROTOCOLS:
        for number, name in enumerate(calls(tmp_path / "x")):
            mark = tmp_path / f"mark-{number}-{protocol}"
            pickle.loads(pickle.dumps(calls(mark)[name], protocol))
            assert mark.exists()


def test_a_message_and_a_journal_of_the_embedded_engine(payload, tmp_path):
    with pytest.raises(ValueError):
        message_of(payload)
    path = tmp_path / "journal"
    path.write_bytes(LENGTH.pack(len(payload)) + payload)
    with pytest.raises(ValueError):
        list(Journal(path).changes())


def test_a_part_of_a_snapshot(payload):
    row = Row(point_id("a"), Passage("a", "text", vector=np.ones(2, np.float32)), "1", SparseVector([1], [1.0]))
    whole = write_part([row], [])
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        columns = {name: archive.read(name) for name in archive.namelist()}
    for damaged in columns:
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            for name, content in columns.items():
                archive.writestr(name, payload if name == damaged else content)
        try:
            rows, _ = read_part(made.getvalue())
            read = list(rows)
        except (ValueError, KeyError, TypeError, OverflowError, IndexError, AttributeError):
            continue
        assert all(type(value) in (str, int, float, np.ndarray, SparseVector, type(None)) for value in read[0].words[0])
    with pytest.raises(zipfile.BadZipFile):
        read_part(payload)


def test_data_of_an_earlier_release(payload, tmp_path):
    file = tmp_path / "storage.sqlite"
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE points (id TEXT, point BLOB)")
        database.execute("INSERT INTO points VALUES ('a', ?)", (payload,))
    database.close()
    with pytest.raises(ImportFailed):
        list(OldVersion("docs-v1", {}, file).rows())


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_model(payload, weights, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    config = {"architectures": ["BertModel"], "max_position_embeddings": 8, "hidden_size": 2, "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / weights).write_bytes(payload)
    with pytest.raises((StartupError, UnknownModelError)):
        found = resolve_model(str(folder), ModelKind.ENCODER, model_dir=None, cache_dir=tmp_path)
        read_spec(found.folder, found.kind)
        tensors_of(found.folder / weights)
    assert hashlib.sha256((folder / weights).read_bytes()).digest() == hashlib.sha256(payload).digest()


def test_answers_of_a_model(payload, tmp_path):
    file = tmp_path / "answers.npy"
    file.write_bytes(payload)
    with pytest.raises(ValueError, match="allow_pickle"):
        np.load(file)
