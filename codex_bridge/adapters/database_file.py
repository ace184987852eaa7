"""The database's file: made, looked at, brought to the newest version, opened and closed. Owns SQLite's own settings."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import BridgeError, StartFailed
from ..limits import STORE_CHECKPOINT_PAGES, STORE_LOCK_WAIT_S

if TYPE_CHECKING:
    import sqlite3  # at run time late, in the threads: it takes a start 4 ms

# In the file's header: "CxBr". It tells our files from others'.
_APPLICATION_ID = 0x43784272
# SQLite's primary error codes of a damaged file.
CORRUPT = 11
DAMAGED = frozenset({CORRUPT, 26})  # 26: not a database


def code_of(problem: Exception) -> int | None:
    """Return SQLite's primary error code; None for what is no error of SQLite's own."""
    code: int | None = getattr(problem, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def open_file(path: str, migrations: Sequence[str]) -> sqlite3.Connection:
    """Return a connection that writes to the file, which is there and of the newest version; raise `StartFailed`."""
    import sqlite3

    try:
        _make_private(path)
        # Looked at by a connection that cannot write: what is not ours, or too new for us, stays as it is.
        connection = connect(path, "ro")
        try:
            _check(path, connection, len(migrations))
        finally:
            connection.close()
        connection = connect(path, "rw")
        try:
            _prepare(connection, migrations)
        except sqlite3.Error:
            connection.close()
            raise
    except OSError as problem:
        raise StartFailed(f"Cannot open the database {path}: {problem.strerror}.") from None
    except sqlite3.Error as problem:
        raise _start_failed(path, problem) from None
    except ValueError as problem:
        raise StartFailed(f"Cannot open the database {path!r}: {problem}.") from None
    return connection


def _start_failed(path: str, problem: sqlite3.Error) -> BridgeError:
    if code_of(problem) in DAMAGED:
        return StartFailed(
            f"The database {path} is damaged: {problem}. Move it away, with {path}-wal where that is there, and "
            "start again; nothing is done to it automatically.",
            code="store_damaged",
        )
    return StartFailed(f"Cannot open the database {path}: {problem}.")


def _make_private(path: str) -> None:
    """Make the file where it is missing, and let nobody else read it; SQLite gives its other files the same mode."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != 0o600:
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.chmod(path + suffix, 0o600)


def connect(path: str, mode: str) -> sqlite3.Connection:
    import sqlite3

    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    connection = sqlite3.connect(
        f"file://{quoted}?mode={mode}", uri=True, timeout=STORE_LOCK_WAIT_S, isolation_level=None
    )
    # Or a savepoint's journal is a file in a directory that others use.
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


def _check(path: str, connection: sqlite3.Connection, newest: int) -> None:
    """Raise `StartFailed` for a database that is not ours or of a version that this bridge does not know."""
    version = _pragma(connection, "user_version")
    is_empty = _pragma(connection, "schema_version") == 0
    if not is_empty and _pragma(connection, "application_id") != _APPLICATION_ID:
        raise StartFailed(f"The file {path} is the database of another program.")
    if version > newest:
        raise StartFailed(
            f"The database {path} is of version {version}, and this bridge knows versions up to {newest}: "
            "a newer bridge has used it. Start that one, or move the file away.",
            code="store_too_new",
        )


def _prepare(connection: sqlite3.Connection, migrations: Sequence[str]) -> None:
    """Set the connection up and apply the migrations that are missing, each in one transaction."""
    if _pragma(connection, "schema_version") == 0:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    # On macOS a plain fsync leaves the data in the drive's own memory; elsewhere this changes nothing.
    connection.execute("PRAGMA fullfsync = ON")
    connection.execute(f"PRAGMA wal_autocheckpoint = {STORE_CHECKPOINT_PAGES}")
    for number, script in enumerate(migrations, 1):
        if number > _pragma(connection, "user_version"):
            connection.executescript(
                f"BEGIN IMMEDIATE; PRAGMA application_id = {_APPLICATION_ID};\n{script};\n"
                f"PRAGMA user_version = {number}; COMMIT"
            )


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def checkpoint(connection: sqlite3.Connection, kind: str) -> None:
    """Copy what is in the -wal file into the database, between two transactions rather than inside one."""
    import sqlite3

    # Where it fails all is stored none the less: a later one, or the next start, does it.
    with contextlib.suppress(sqlite3.Error):
        connection.execute(f"PRAGMA wal_checkpoint({kind})")


def close_file(connection: sqlite3.Connection) -> None:
    import sqlite3

    checkpoint(connection, "TRUNCATE")
    with contextlib.suppress(sqlite3.Error):
        connection.close()
