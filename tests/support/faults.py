"""Servers that can be killed, and a network that can be cut, for tests of what the service does meanwhile."""

import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import redis

from service.processes.embedded import redis_server
from tests.support.processes import free_port, wait_for


class Wire:
    """A TCP proxy in front of a server, which can be cut and mended."""

    def __init__(self, port: int) -> None:
        self.server_port, self.port = port, free_port()
        self._open: set[socket.socket] = set()
        self._cut = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Nothing gets through any more: open connections break, new ones are closed at once."""
        self._cut.set()
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._cut.clear()

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                if self._cut.is_set():
                    client.close()
                    continue
                try:
                    server = socket.create_connection(("127.0.0.1", self.server_port), timeout=5)
                    server.settimeout(None)
                except OSError:  # it is being restarted
                    client.close()
                    continue
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        self._open.add(source)
        try:
            while piece := source.recv(1 << 16):
                target.sendall(piece)
        except OSError:
            pass
        finally:
            self._open.discard(source)
            for each in (source, target):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)


class Redis:
    """A Redis that keeps nothing on disk."""

    def __init__(self) -> None:
        self.port = free_port()
        self.start()

    def start(self) -> None:
        command = [redis_server(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        with redis.Redis(port=self.port) as connection:
            wait_for(connection.ping, "Redis does not answer")

    def restart(self) -> None:
        """With an empty memory."""
        self.stop()
        self.start()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


class Postgres:
    """A PostgreSQL cluster of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # not in pytest's folders, which only their owner may enter
        if os.geteuid() == 0:  # PostgreSQL does not run as root
            shutil.chown(self.folder, "postgres", "postgres")
        self._run("initdb", "--auth", "trust", "--username", "postgres", "--no-sync", "--pgdata", str(self.folder))
        self.start()

    @staticmethod
    def programs() -> Path | None:
        """Where the server's programs are, if it is installed."""
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "missing")]
        return found[-1].parent if found[-1].exists() else None

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -c unix_socket_directories='' -c listen_addresses=127.0.0.1 -c max_connections=200"
        self._run("pg_ctl", "start", "--wait", "--pgdata", str(self.folder), "-o", options, "--log", str(self.folder / "log"))
        wait_for(lambda: psycopg.connect(self.url.replace("+psycopg", "")).close() is None, "PostgreSQL does not answer")

    def restart(self) -> None:
        """As after a crash: nobody is waited for."""
        self.stop()
        self.start()

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "--mode", "immediate", "--pgdata", str(self.folder))

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def _run(self, program: str, *arguments: str) -> None:
        folder = self.programs()
        command = [str(folder / program) if folder else program, *arguments]
        if os.geteuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.folder)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path | None]:
    """A file system of its own at ``folder``; None where mounting one is not allowed."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", folder], check=False, capture_output=True
    )
    try:
        yield folder if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Leave no room in a small file system for as long as the block lasts."""
    ballast = folder / "ballast"
    with suppress(OSError), ballast.open("wb") as stream:
        while True:
            stream.write(bytes(1 << 16))
    try:
        yield
    finally:
        ballast.unlink()
