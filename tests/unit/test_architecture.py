"""The house: which room may import which, who owns what, how long a function may be. Read from the source."""

import ast
import functools
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

PACKAGE = "codex_bridge"
SOURCE = Path(__file__).resolve().parents[2] / PACKAGE
MAX_FUNCTION_LINES = 60

_BELOW_SERVICES = {"workspace", "adapters", "protocol", "base"}
ARROWS = {
    "base": set(),
    "protocol": {"base"},
    "adapters": {"protocol", "base"},
    "workspace": {"adapters", "protocol", "base"},
    "runtimes": _BELOW_SERVICES,
    "store": {"adapters", "protocol", "base"},
    "services": {"store", *_BELOW_SERVICES},
    "api": {"services", *_BELOW_SERVICES},
    "top": {"api", "services", "runtimes", "store", *_BELOW_SERVICES},
}  # fmt: skip
ROOM_OF_MODULE = {
    "": "base", "errors": "base", "limits": "base", "log": "base", "model": "base", "config": "base", "runtime": "base",
    "providers": "base", "proxies": "base", "values": "base",
    "app": "top", "from_config": "top", "daemon": "top", "doctor": "top", "cli": "top", "__main__": "top", "demo": "top",
}  # fmt: skip

Modules = dict[str, ast.Module]
_STARTERS = {
    "create_subprocess_exec",
    "create_subprocess_shell",
    "system",
    "popen",
    "fork",
    "posix_spawn",
    "subprocess_exec",
}


_SQL = re.compile(
    r"\b(SELECT\s.+\sFROM|INSERT (OR \w+ )?INTO|UPDATE \w+ SET|DELETE FROM|CREATE (TABLE|INDEX)|PRAGMA|BEGIN IMMEDIATE)\b"
)


@functools.cache
def read_package(root: Path) -> Modules:
    """Return the modules of a package by their dotted names below it ("" is the package itself)."""
    modules = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return modules


def room(module: str) -> str:
    first = module.partition(".")[0]
    return ROOM_OF_MODULE.get(first, first)


def imports(modules: Modules, name: str, packages: set[str]) -> Iterator[str]:
    """Yield the modules of the package that the module `name` imports, wherever in it."""
    here = name.split(".") if name else []
    package = here if name in packages else here[:-1]
    for node in ast.walk(modules[name]):
        if isinstance(node, ast.Import):
            found = [
                alias.name.partition(".")[2] for alias in node.names if alias.name.split(".")[0] == PACKAGE
            ]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
                base = [*base, *(node.module.split(".") if node.module else [])]
            elif (node.module or "").split(".")[0] == PACKAGE:
                base = (node.module or "").split(".")[1:]
            else:
                continue
            dotted = ".".join(base)
            below = [".".join([*base, alias.name]) for alias in node.names]
            found = [module if module in modules else dotted for module in below]
        else:
            continue
        yield from (module for module in found if module in modules and module != name)


@functools.cache
def graph(root: Path) -> dict[str, set[str]]:
    modules = read_package(root)
    packages = {name for name in modules if any(other.startswith(f"{name}.") for other in modules)} | {""}
    return {name: set(imports(modules, name, packages)) for name in modules}


def find_cycle(edges: dict[str, set[str]]) -> list[str] | None:
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in done:
            for other in sorted(edges[name]):
                if cycle := visit(other, [*path, name]):
                    return cycle
            done.add(name)
        return None

    return next((cycle for name in sorted(edges) if (cycle := visit(name, []))), None)


def against_the_arrows(edges: dict[str, set[str]]) -> list[str]:
    return [
        f"{name or PACKAGE} ({room(name)}) imports {other} ({room(other)})"
        for name, others in sorted(edges.items())
        for other in sorted(others)
        if room(name) != room(other) and room(other) not in ARROWS[room(name)]
    ]


def environ_readers(modules: Modules) -> list[str]:
    """Return the modules that read the process's environment."""
    names = {"environ", "environb", "getenv", "putenv"}
    return [
        name
        for name, tree in modules.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in names and ast.unparse(node.value) == "os")
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and names & {a.name for a in node.names})
    ]


def child_starters(modules: Modules) -> list[str]:
    """Return the modules that start processes."""
    found = []
    for name, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                hit = any(
                    alias.name.split(".")[0] in ("subprocess", "multiprocessing", "pty")
                    for alias in node.names
                )
            elif isinstance(node, ast.ImportFrom):
                hit = node.module in ("subprocess", "multiprocessing", "pty", "asyncio.subprocess")
                hit = hit or (
                    node.module in ("os", "asyncio") and bool(_STARTERS & {a.name for a in node.names})
                )
            else:
                hit = isinstance(node, ast.Attribute) and node.attr in _STARTERS
            if hit:
                found.append(name)
    return found


def importers(modules: Modules, names: set[str]) -> list[str]:
    """Return the modules that import one of `names` at run time, wherever in them."""
    found = []
    for name, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported = {(node.module or "").partition(".")[0]}
            else:
                continue
            if imported & names:
                found.append(name)
    return found


def sql_writers(modules: Modules) -> list[str]:
    """Return the modules with a statement of SQL in a string."""
    return [
        name
        for name, tree in modules.items()
        if any(
            isinstance(node, ast.Constant) and isinstance(node.value, str) and _SQL.search(node.value)
            for node in ast.walk(tree)
        )
    ]


def long_functions(modules: Modules) -> list[str]:
    return [
        f"{name}.{node.name}: {lines} lines"
        for name, tree in modules.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]


def slow_values(modules: Modules) -> list[str]:
    """Return the frozen dataclasses that `values.value` could make, which a start has not to wait for."""
    return [
        f"{name}.{node.name}"
        for name, tree in modules.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any("frozen=True" in ast.unparse(decorator) for decorator in node.decorator_list)
        and not any(isinstance(line, ast.AnnAssign) and "field(" in ast.unparse(line) for line in node.body)
    ]


def test_the_package_is_read() -> None:
    edges = graph(SOURCE)
    assert "protocol.http_reader" in edges["adapters.http_server"]
    assert "protocol.codex" in edges["runtimes.app_server"]
    assert "services.turns" in edges["app"]


def test_every_module_is_in_a_room() -> None:
    assert {room(name) for name in read_package(SOURCE)} <= set(ARROWS)


def test_no_import_goes_in_a_circle() -> None:
    assert find_cycle(graph(SOURCE)) is None


def test_imports_follow_the_arrows() -> None:
    assert against_the_arrows(graph(SOURCE)) == []


def test_only_the_configuration_reads_the_environment() -> None:
    readers = {name for name in environ_readers(read_package(SOURCE)) if not name.startswith("demo")}
    assert readers == {"config"}


def test_only_the_process_adapter_starts_processes() -> None:
    starters = {name for name in child_starters(read_package(SOURCE)) if not name.startswith("demo")}
    assert starters == {"adapters.process"}


def test_only_the_database_adapter_has_sqlite() -> None:
    owners = {"adapters.database", "adapters.database_file"}
    assert set(importers(read_package(SOURCE), {"sqlite3", "_sqlite3"})) == owners


def test_only_two_adapters_start_threads() -> None:
    names = {"threading", "_thread", "concurrent"}
    assert set(importers(read_package(SOURCE), names)) == {"adapters.database", "adapters.threads"}


def test_only_the_store_speaks_sql() -> None:
    writers = set(sql_writers(read_package(SOURCE)))
    assert {name for name in writers if not name.startswith("store.")} == {
        "adapters.database",
        "adapters.database_file",
    }
    assert "store.events" in writers


def test_no_function_is_long() -> None:
    assert long_functions(read_package(SOURCE)) == []


def test_values_are_made_by_value() -> None:
    assert slow_values(read_package(SOURCE)) == []


# What a start does not need, by what it would load first of it. It is imported where it is used.
LATE = {
    "argparse", "shutil", "sqlite3", "encodings.idna", "codex_bridge.demo", "codex_bridge.protocol.chat", "codex_bridge.protocol.hunks",
    "codex_bridge.protocol.intent", "codex_bridge.runtimes.exec", "codex_bridge.runtimes.tool_loop", "codex_bridge.services.probes",
    "codex_bridge.services.trial", "codex_bridge.workspace.commands", "codex_bridge.workspace.edits", "codex_bridge.workspace.files",
    "codex_bridge.workspace.git", "codex_bridge.workspace.search",
}  # fmt: skip


def test_a_start_loads_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    begin = (
        "import sys; from codex_bridge import app, cli, config, daemon\n"
        "app.Bridge(config.load(flags={})); print(*sys.modules)"
    )
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(SOURCE.parent),
        "CODEX_WORKSPACE_ROOT": str(tmp_path),
    }
    told = subprocess.run(
        [sys.executable, "-c", begin], env=environ, capture_output=True, text=True, check=True
    )
    loaded = set(told.stdout.split())
    assert "codex_bridge.services.turns" in loaded
    assert loaded & LATE == set()
    assert all(importlib.util.find_spec(name) for name in LATE), "a name that is no module's"


@pytest.fixture
def bad_house(tmp_path: Path) -> Path:
    """A package that breaks every rule: the checks above must see it."""
    files = {
        "__init__.py": "",
        "errors.py": "from .services import turns\n",
        "log.py": "import os\nx = os.environ['A']\n",
        "protocol/__init__.py": "",
        "model.py": "@dataclass(frozen=True)\nclass A:\n    a: int = 1\n@dataclass(frozen=True)\nclass B:\n    a: int = field()\n",
        "protocol/sse.py": "import codex_bridge.adapters.net\nfrom os import getenv\n",
        "adapters/__init__.py": "",
        "adapters/net.py": "from ..errors import x\nimport subprocess\n",
        "services/__init__.py": "",
        "services/turns.py": "def f():\n    from codex_bridge.runtimes import x\n    from ..api import routes\n",
        "services/store.py": "import threading\ndef f(c):\n    import sqlite3\n    c.execute(f'DELETE FROM {c}')\n",
        "services/ring.py": "from . import turns\nimport asyncio\nasyncio.create_subprocess_exec\n",
        "runtimes/__init__.py": "",
        "runtimes/x.py": "from ..services.ring import y\n",
        "api/__init__.py": "",
        "api/routes.py": "def long():\n" + "    pass\n" * 60,
    }
    for name, text in files.items():
        path = tmp_path / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / PACKAGE


def test_the_checks_see_a_bad_house(bad_house: Path) -> None:
    edges, modules = graph(bad_house), read_package(bad_house)
    assert find_cycle(edges) is not None
    found = "\n".join(against_the_arrows(edges))
    for wrong in (
        "errors (base) imports services.turns", "protocol.sse (protocol) imports adapters.net",
        "services.turns (services) imports runtimes.x", "services.turns (services) imports api.routes",
        "runtimes.x (runtimes) imports services.ring",
    ):  # fmt: skip
        assert wrong in found
    assert set(environ_readers(modules)) == {"log", "protocol.sse"}
    assert set(child_starters(modules)) == {"adapters.net", "services.ring"}
    assert (
        set(importers(modules, {"sqlite3"})) == set(importers(modules, {"threading"})) == {"services.store"}
    )
    assert sql_writers(modules) == ["services.store"]
    assert slow_values(modules) == ["model.A"]
    assert long_functions(modules) == ["api.routes.long: 61 lines"]
