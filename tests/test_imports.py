"""The architecture, read from the source: who imports whom, who may tell time, how long things are.

See docs/architecture.md; each rule that is broken on purpose is listed here by name.
"""

from __future__ import annotations

import ast
import inspect
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pip._internal.models.index as pip_index
import pypi_simple
import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("cluster", "primary", "replica")
MODULES = sorted(
    path.relative_to(ROOT) for package in OURS for path in (ROOT / package).rglob("*.py")
)
PURE = {
    "cluster.errors", "cluster.names", "cluster.model", "cluster.log.changes",
    "cluster.log.merkle", "cluster.log.checkpoint", "cluster.log.epochs", "cluster.simple.pages",
    "cluster.simple.negotiate", "cluster.upstream.parse", "cluster.upstream.facts",
    "cluster.upstream.markup", "cluster.upstream.tags", "cluster.upstream.listing",
    "cluster.state.inherit", "cluster.state.operators", "cluster.state.options",
    "cluster.state.optionvalues", "replica.following",
    "primary.mirroring.delta", "cluster.networks", "cluster.nearest", "cluster.hints",
    "cluster.health", "cluster.metrics", "primary.reports",
}  # fmt: skip
IO = ("twisted", "treq", "klein", "sqlalchemy", "sqlite3", "socket", "requests")
# In `cluster`, a layer may import itself and those before it (style.md, Layout).
LAYERS = ("cluster.errors", "cluster.names", "cluster.model", "cluster.log", "cluster.state")
APPENDERS = {"primary.writer", "replica.taking", "cluster.promotion"}
# Composition roots, and the one function that stamps entries.
TELLS_TIME = {
    "cluster.parts", "primary.compose", "replica.tap", "primary.writer",
    "cluster.monotonic", "cluster.cli.local", "cluster.cli.promote", "cluster.cli.verify",
}  # fmt: skip
CLOCKS = {
    "time.time", "time.time_ns", "time.monotonic", "time.localtime", "time.gmtime",
    "datetime.now", "datetime.utcnow", "datetime.today", "date.today", "datetime.datetime.now",
}  # fmt: skip
# What nobody can guess, or nobody has: secrets, salts and nonces, and names of new things. None
# of it decides what a node does, so the simulation repeats without it.
MAKES_UP = {
    "cluster.auth.jointokens", "cluster.auth.nodes", "cluster.auth.passwords",
    "cluster.auth.tokens", "primary.devpi.importing", "primary.devpi.indexes",
    "replica.joining", "replica.loading", "replica.primary_client", "cluster.cli.promote",
    "cluster.cli.verify",
    "cluster.durable", "cluster.files.store", "cluster.parts", "primary.bootstrap",
    "primary.devpi.pushform",
}  # fmt: skip
# Pauses that differ from node to node; each takes a `random.Random`, a seeded one in tests.
TAKES_CHANCE = {
    "primary.triggers.lane", "primary.triggers.service", "replica.follower", "replica.following",
    "replica.owner",
}  # fmt: skip
SAMPLES = {"cluster.cli.comparing"}
UNGUESSABLE = ("secrets", "uuid.uuid1", "uuid.uuid4", "os.urandom", "os.getrandom")
SIMULATION = sorted((ROOT / "tests" / "simulation").glob("*.py"))
# Puts the parts of a node together, line by line.
LONG_FUNCTIONS: set[tuple[str, str]] = set()
MAX_FUNCTION = 40
MAX_MODULE = 350


def dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def names_at_run_time(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those below `if TYPE_CHECKING:`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from names_at_run_time(child)


@cache
def imported(path: Path) -> frozenset[str]:
    """What a module imports, each as the longest dotted name; relative imports do not occur."""
    found: set[str] = set()
    for node in names_at_run_time(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            module = str(node.module)
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return frozenset(found)


def below(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def wrong(path: Path, *forbidden: str) -> list[str]:
    return [n for n in sorted(imported(path)) if any(below(n, package) for package in forbidden)]


def test_there_is_something_to_check() -> None:
    """The list of modules is not empty, and every rule names modules that exist."""
    names = {dotted(path) for path in MODULES}
    assert len(names) > 60
    assert names >= PURE | APPENDERS | TELLS_TIME | {module for module, _ in LONG_FUNCTIONS}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_go_down(path: Path) -> None:
    """`cluster` knows neither role, and the roles do not know each other."""
    forbidden = {
        "cluster": ("primary", "replica"), "primary": ("replica",), "replica": ("primary",),
    }  # fmt: skip
    assert wrong(path, *forbidden[path.parts[0]], "tests", "bench") == []


def test_layers_of_cluster() -> None:
    """Names and errors know nothing of ours, the model knows names, the log the model, …"""
    for path in MODULES:
        for number, layer in enumerate(LAYERS):
            if below(dotted(path), layer):
                allowed = LAYERS[: number + 1]
                ours = [n for n in imported(path) if below(n, "cluster") and n != "cluster"]
                bad = [n for n in ours if not any(below(n, a) for a in allowed)]
                if layer == "cluster.state":  # its databases and positions stand on these
                    base = ("cluster.threads", "cluster.clock", "cluster.durable")
                    bad = [n for n in bad if not n.startswith(base)]
                assert bad == [], f"{path} imports {bad}"


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_modules_do_no_io(name: str) -> None:
    """Pure modules can be tested without a reactor, a network or a database."""
    path = Path(*name.split(".")).with_suffix(".py")
    assert wrong(path, *IO) == []


def test_pure_modules_stay_pure_through_what_they_import() -> None:
    """What a pure part of the log or of the index needs is pure too."""
    for name in PURE:
        path = Path(*name.split(".")).with_suffix(".py")
        ours = {n for n in imported(path) if any(below(n, package) for package in OURS)}
        modules = {n for n in ours if (ROOT / Path(*n.split("."))).with_suffix(".py").exists()}
        # `iso` formats seconds; it stands beside the upstreams' health, which does no I/O.
        assert modules <= PURE | {"cluster.upstream.health"}, name


def test_only_tap_imports_the_reactor() -> None:
    """Everybody else is given a reactor, or a clock, so that tests can give another."""
    users = {dotted(p) for p in MODULES if wrong(p, "twisted.internet.reactor")}
    assert users == {"primary.tap", "replica.tap"}


def test_tap_makes_the_clock_monotonic_first() -> None:
    """The first of ours that a command imports is the one that mends Twisted's clock."""
    for name in ("primary", "replica"):
        first, *_ = [
            node
            for node in tree(Path(name, "tap.py")).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            and ast.unparse(node) != "from __future__ import annotations"
        ]
        assert ast.unparse(first) == "import cluster.monotonic"


def calls(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute | ast.Name):
            yield ast.unparse(node), node.lineno


def test_only_two_append() -> None:
    """The writer appends what is decided, the follower what was verified; nobody else."""
    users = {
        dotted(path)
        for path in MODULES
        for appends in ("append", "store")
        for name, _ in calls(path)
        if name == f"changelog.{appends}" or f"cluster.log.changelog.{appends}" in imported(path)
    }
    assert users == APPENDERS


def test_only_listed_modules_tell_time() -> None:
    """Time is an argument; what tells it is a composition root or stamps entries."""
    users = {dotted(path) for path in MODULES for name, _ in calls(path) if name in CLOCKS}
    assert users <= TELLS_TIME
    assert all("time.time" not in imported(path) for path in MODULES)


def comes_from(path: Path, *sources: str) -> set[str]:
    """What a module imports or names of these."""
    names = {name for name, _ in calls(path) if "." in name and not name.startswith("secrets.")}
    return {name for name in imported(path) if any(below(name, s) for s in sources)} | {
        name for name in names if name in sources or (below(name, "random") and "random" in sources)
    }


def test_only_listed_modules_make_up_values() -> None:
    """Chance is an argument; what nobody can repeat is a name or a secret, made where listed."""
    users = {dotted(path) for path in MODULES if comes_from(path, *UNGUESSABLE)}
    assert users <= MAKES_UP
    chancy = {dotted(path) for path in MODULES if comes_from(path, "random")}
    assert chancy <= TAKES_CHANCE | SAMPLES
    for path in MODULES:
        if dotted(path) in TAKES_CHANCE:
            assert comes_from(path, "random") <= {"random", "random.Random"}, path


def unrepeatable(source: str) -> list[str]:
    """What makes a program another one in its next run: chance without a seed, clocks, threads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        text = ast.unparse(node)
        if isinstance(node, ast.Call) and text == "random.Random()":
            found.append(text)
        if isinstance(node, ast.keyword) and text.endswith("=random.Random"):
            found.append(text)
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            names = {f"{module}.{one.name}" if module else one.name for one in node.names}
            found += [n for n in names if below(n, "time") or below(n, "threading")]
            found += [n for n in names if n == "twisted.internet.reactor" or below(n, "secrets")]
            found += [n for n in names if n in UNGUESSABLE]
            found += [
                n for n in names if below(n, "random") and n not in ("random", "random.Random")
            ]
        if isinstance(node, ast.Attribute) and text in (*UNGUESSABLE, *CLOCKS):
            found.append(text)
        if isinstance(node, ast.Attribute) and text.startswith("random.") and text.count(".") == 1:
            found += [text] if text != "random.Random" else []
    return found


@pytest.mark.parametrize("path", SIMULATION, ids=lambda path: path.name)
def test_the_simulation_repeats(path: Path) -> None:
    """A number is a run: nothing in the simulation comes from a clock, a thread or chance but by
    the run's own seed."""
    assert unrepeatable(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import time", "from time import monotonic", "import threading", "random.random()",
        "from random import choice", "random.Random()", "field(factory=random.Random)",
        "import secrets", "from uuid import uuid4", "os.urandom(3)", "datetime.now(UTC)",
        "from twisted.internet import reactor",
    ],
)  # fmt: skip
def test_what_does_not_repeat_is_seen(source: str) -> None:
    """Each way to bring chance or time in is found; a seeded one is none."""
    assert unrepeatable(source) != []
    assert unrepeatable("import random\nrandom.Random(7).random()\nUUID(int=3)") == []


def test_functions_are_short() -> None:
    """No function has more than 40 lines; the exceptions are named, and still needed."""
    found = {
        (dotted(path), node.name)
        for path in MODULES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION
    }
    assert found <= LONG_FUNCTIONS


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_modules_are_short(path: Path) -> None:
    """No module has more than 350 lines; a package's __init__ has a docstring and no code."""
    assert len((ROOT / path).read_text().splitlines()) <= MAX_MODULE
    body = tree(path).body
    if path.name == "__init__.py":
        assert len(body) == 1
    assert ast.get_docstring(tree(path)), f"{path} says nothing of itself"


def registry_hosts() -> set[bytes]:
    """The host names of public registries, taken from others' constants, never spelled here."""
    index = pip_index.PyPI
    urls = {pypi_simple.PYPI_SIMPLE_ENDPOINT, index.url, pip_index.TestPyPI.url}
    hosts = {str(urlsplit(url).hostname) for url in urls}
    return {host.encode() for host in hosts | {index.file_storage_domain}}


def tracked() -> list[Path]:
    git = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if git.returncode:
        return [p for package in (*OURS, "tests", "docs") for p in (ROOT / package).rglob("*.*")]
    return [ROOT / name for name in git.stdout.decode().split("\0") if name]


def test_no_registry_is_named() -> None:
    """No tracked file spells a registry's host: the default is the library's constant."""
    hosts = registry_hosts()
    assert len(hosts) >= 3
    named = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.is_file() and any(host in path.read_bytes().lower() for host in hosts)
    ]
    assert named == []


def test_the_plugin_imports_nothing_of_ours() -> None:
    """An error in an import there would print tracebacks in every call of twistd."""
    folder = ROOT / "twisted"
    assert not list(folder.rglob("__init__.py"))
    assert wrong(Path("twisted/plugins/pymirror_dropin.py"), *OURS) == []


def test_this_file_reads_imports() -> None:
    """The reader of imports sees every form of them."""
    source = inspect.cleandoc("""
        import a.b
        from c import d as e
        if TYPE_CHECKING:
            import hidden
        def f():
            from g.h import i
    """)
    found = {
        alias.name
        for node in names_at_run_time(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert found == {"a.b", "d", "i"}
