"""The house keeps its shape: who may import whom, what a file says first, what an import costs.

A rule is here once a reader relies on it to find his way; the rules themselves are in
docs/architecture.md.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import holdfast

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "holdfast"
FILES = sorted(PACKAGE.rglob("*.py"))

# From the ground up: a floor may import from those under it, never from above or beside.
FLOORS = [
    {"errors", "forks", "jitter"},
    {"signals"},
    {"settings"},
    {"link"},
    {"runtime"},
    {"startup", "health", "endings"},
    {"sessions", "streams"},
    {"oauth"},
    {"metrics", "tracing"},
    {"client"},
    {"frameworks"},
    {"flask", "django", "quart", "agents"},
    {"wrapping"},
    {"asgi", "wsgi"},
    {"testing"},
    {"demo"},
    {"cli"},
    {"__main__"},
]
# The same inside the two halves, where the files beside these folders are values and contracts that
# all may use, and the few doors of the house itself, which use everything.
INNER_FLOORS = {
    "sessions": ["stores", "outage", "request", "doors"],
    "streams": ["stores", "fanout", "publishing", "documents", "doors", "capture"],
}
# Who alone may import what; any other third party serves the whole package.
RESERVED = {
    "redis": {"link"},
    "hiredis": {"link"},
    "pydantic": {"settings"},
    "pydantic_settings": {"settings"},
    "click": {"cli"},
    "uvicorn": {"cli"},
    # The command line follows an address by holdfast.client, which takes a client of its user's.
    "httpx": {"client", "oauth", "cli"},
    "pytest": {"testing"},
    "flask": {"flask", "frameworks", "oauth"},
    "quart": {"quart", "frameworks"},
    # The import of sessions asks Django's database by Django's own code, where it is set up.
    "django": {"django", "frameworks", "sessions"},
    "authlib": {"oauth"},
    "prometheus_client": {"metrics"},
    "opentelemetry": {"tracing"},
    "cryptography": {"sessions"},
    "langchain_core": {"agents"},
}
HEAVY = ["redis", "hiredis", "pydantic", "pydantic_settings"]
MAX_IMPORT_MS = 30.0
MAX_SCRIPT_LINES = 20


def floor_of(name: str) -> int:
    return next(number for number, names in enumerate(FLOORS) if name in names)


def part_of(path: Path) -> str:
    """The module or package directly inside holdfast that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it: lazily and for type checking too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            module = node.module or ""
            is_root = module == "holdfast"
            found |= {f"{module}.{alias.name}" if is_root else module for alias in node.names}
    return found


def ids(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


INSIDE = [path for path in FILES if path.parent != PACKAGE or path.name != "__init__.py"]


@pytest.mark.parametrize("path", INSIDE, ids=ids(INSIDE))
def test_imports_go_down_only(path: Path) -> None:
    part = part_of(path)
    assert any(part in floor for floor in FLOORS), f"give {part} its floor in {Path(__file__).name}"
    for module in imports_of(path):
        if not module.startswith("holdfast."):
            continue
        other = module.split(".")[1]
        if not any(other in floor for floor in FLOORS):
            # A public name by the front door, for the parts that are users like any other.
            assert floor_of(part) >= floor_of("frameworks"), f"{path} imports {module}"
        elif other != part:
            assert floor_of(other) < floor_of(part), f"{path} imports {module}"


INNER = [
    path
    for half, floors in INNER_FLOORS.items()
    for path in FILES
    if path.parent.parent == PACKAGE / half and path.parent.name in floors
]


@pytest.mark.parametrize("path", INNER, ids=ids(INNER))
def test_imports_go_down_inside_each_half_too(path: Path) -> None:
    half, floor = path.relative_to(PACKAGE).parts[:2]
    floors = INNER_FLOORS[half]
    above = tuple(f"holdfast.{half}.{other}" for other in floors[floors.index(floor) + 1 :])
    for module in imports_of(path):
        assert not module.startswith(above), module


@pytest.mark.parametrize("path", FILES, ids=ids(FILES))
def test_a_reserved_package_is_imported_by_its_owner_alone(path: Path) -> None:
    roots = {module.split(".")[0] for module in imports_of(path)}
    for root in roots & RESERVED.keys():
        assert part_of(path) in RESERVED[root], f"{path} imports {root}"


@pytest.mark.parametrize("path", FILES, ids=ids(FILES))
def test_only_the_settings_read_the_environment(path: Path) -> None:
    names = {"environ", "environb", "getenv", "getenvb"}
    for node in ast.walk(ast.parse(path.read_text())):
        read = (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "os"
            and node.attr in names
        ) or (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and bool(names & {alias.name for alias in node.names})
        )
        assert not read or part_of(path) == "settings", f"{path}:{getattr(node, 'lineno', 0)}"


@pytest.mark.parametrize("path", FILES, ids=ids(FILES))
def test_a_file_opens_with_what_belongs_in_it(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no charter"


def test_importing_everything_starts_nothing() -> None:
    modules = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in FILES
        if path.name != "__main__.py" and not {"django", "flask", "quart"} & {part_of(path)}
    ]
    found = run_fresh(f"""
        import importlib, json, signal, sys, threading
        handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        for name in {modules!r}:
            importlib.import_module(name)
        print(json.dumps({{
            "threads": threading.active_count(),
            "signals": handlers == [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)],
            "runtimes": len(sys.modules["holdfast.runtime"]._runtimes),
        }}))
    """)
    assert found == {"threads": 1, "signals": True, "runtimes": 0}


def test_import_is_light_and_cheap() -> None:
    runs = [
        run_fresh(f"""
            import json, sys, time
            import starlette.applications
            begun = time.perf_counter()
            import holdfast
            spent = 1000 * (time.perf_counter() - begun)
            print(json.dumps([spent, [name for name in {HEAVY} if name in sys.modules]]))
        """)
        for _ in range(3)
    ]
    assert [loaded for _, loaded in runs] == [[], [], []]
    assert min(spent for spent, _ in runs) < MAX_IMPORT_MS


def test_taking_a_public_name_loads_no_driver() -> None:
    names = [name for name in public_names() if name != "Settings"]
    loaded = run_fresh(f"""
        import json, sys
        import holdfast
        for name in {names!r}:
            getattr(holdfast, name)
        print(json.dumps([name for name in {HEAVY} if name in sys.modules]))
    """)
    assert loaded == []


def test_the_three_lists_of_public_names_are_equal() -> None:
    typed = typed_names()
    assert sorted(typed) == sorted(public_names())
    assert len(set(public_names())) == len(public_names())
    for name, home in typed.items():
        assert getattr(holdfast, name) is getattr(import_module(home), name)
        assert name in dir(holdfast)
    absent = "no_such_name"
    with pytest.raises(AttributeError, match=absent):
        getattr(holdfast, absent)


def typed_names() -> dict[str, str]:
    """The names that a type checker sees in the package, each with the module it is from."""
    found: dict[str, str] = {}
    for node in ast.parse((PACKAGE / "__init__.py").read_text()).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for statement in node.body:
                if isinstance(statement, ast.ImportFrom) and "holdfast" in (statement.module or ""):
                    assert all(alias.asname == alias.name for alias in statement.names)
                    found |= {alias.name: str(statement.module) for alias in statement.names}
    return found


def public_names() -> list[str]:
    return [name for name in getattr(holdfast, "__all__", []) if not name.startswith("__")]


@pytest.mark.parametrize("name", ["install", "check", "test", "demo", "bench"])
def test_a_script_is_short(name: str) -> None:
    lines = (ROOT / "scripts" / name).read_text().splitlines()
    assert len(lines) < MAX_SCRIPT_LINES


def run_fresh(source: str) -> Any:
    """Run *source* in a new interpreter, with warnings as errors, and return the JSON it prints."""
    lines = source.strip("\n").splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    program = "\n".join(line[indent:] for line in lines)
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
