"""Index options: defaults and each check of devpi-api §4, and the options of both commands."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pypi_simple
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.python import usage

from cluster.errors import InvalidRequest
from cluster.model import HostedIndex, MirrorIndex
from cluster.names import IndexName
from cluster.options import DEFAULT_LISTEN
from cluster.state.options import index_from_options, kind_of, parse_options, to_options
from primary.tap import Options as PrimaryOptions
from replica.tap import Options as ReplicaOptions

NAME = IndexName("ann/dev")
UPSTREAM = "https://upstream.example/simple/"


def mirror(**given: Any) -> MirrorIndex:
    found = parse_options(NAME, {"type": "mirror", "mirror_url": UPSTREAM, **given})
    assert isinstance(found, MirrorIndex)
    return found


def stage(**given: Any) -> HostedIndex:
    found = parse_options(NAME, given)
    assert isinstance(found, HostedIndex)
    return found


def test_stage_defaults() -> None:
    """An empty body makes a hosted index that only its user may upload to."""
    assert to_options(stage()) == {
        "bases": [], "acl_upload": ["ann"], "volatile": True, "mirror_whitelist": [],
        "mirror_whitelist_inheritance": "intersection",
    }  # fmt: skip
    assert kind_of(stage(type="stage")) == "stage"


def test_mirror_defaults() -> None:
    """A mirror needs its URL alone."""
    assert to_options(mirror()) == {
        "mirror_url": UPSTREAM, "volatile": True, "mirror_cache_expiry": 1800, "max_stale": 3600,
    }  # fmt: skip
    assert kind_of(mirror()) == "mirror"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("volatile", "FALSE", False), ("volatile", "yes", True), ("volatile", "No", False),
        ("volatile", False, False),
        ("bases", "root/pypi, /ann/prod/ ,", ("root/pypi", "ann/prod")),
        ("bases", ["/root/pypi"], ("root/pypi",)),
        ("acl_upload", "ann, :anonymous:,:Authenticated:", ("ann", ":ANONYMOUS:",
                                                            ":AUTHENTICATED:")),
        ("acl_upload", [], ()),
        ("mirror_whitelist", "Foo_Bar, *", ("foo-bar", "*")),
        ("mirror_whitelist_inheritance", "union", "union"),
    ],
)  # fmt: skip
def test_stage_values(key: str, value: object, expected: object) -> None:
    """Texts and JSON values are read as devpi reads them."""
    assert getattr(stage(**{key: value}), key) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"type": "other"}, "unknown index type"),
        ({"colour": 1, "age": 2}, "unexpected keyword arguments: age, colour"),
        ({"mirror_url": UPSTREAM}, "unexpected keyword arguments: mirror_url"),
        ({"volatile": "maybe"}, "volatile must be true or false"),
        ({"volatile": 1}, "volatile must be true or false"),
        ({"bases": "pypi"}, "invalid base index spec"),
        ({"bases": "root/"}, "invalid base index spec"),
        ({"bases": "root/+x"}, "not a valid index name"),
        ({"bases": "root/a b"}, "not allowed"),
        ({"bases": 5}, "must be a list"),
        ({"bases": [5]}, "must be a list"),
        ({"acl_upload": {"ann": 1}}, "must be a list"),
        ({"mirror_whitelist": None}, "must be a list"),
        ({"mirror_whitelist_inheritance": "both"}, "'intersection' or 'union'"),
        ({"type": "mirror"}, "needs mirror_url"),
        ({"type": "mirror", "mirror_url": ""}, "must start with http"),
        ({"type": "mirror", "mirror_url": "ftp://upstream.example/"}, "must start with http"),
        ({"type": "mirror", "mirror_url": 5}, "must start with http"),
        ({"type": "mirror", "mirror_url": UPSTREAM, "mirror_cache_expiry": -1}, "seconds"),
        ({"type": "mirror", "mirror_url": UPSTREAM, "mirror_cache_expiry": "soon"}, "seconds"),
        ({"type": "mirror", "mirror_url": UPSTREAM, "max_stale": True}, "seconds"),
        ({"type": "mirror", "mirror_url": UPSTREAM, "max_stale": None}, "seconds"),
        ({"type": "mirror", "mirror_url": UPSTREAM, "mirror_no_project_list": 3}, "true or false"),
        ({"type": ["stage"]}, "unknown index type"),
        ({"type": "mirror", "mirror_url": "https://"}, "with a host"),
        ({"type": "mirror", "mirror_url": "https://["}, "with a host"),
        ({"type": "mirror", "mirror_url": UPSTREAM + "\r\nX: y"}, "with a host"),
        ({"mirror_cache_expiry": 5}, "unexpected keyword"),
        ({"type": "mirror", "mirror_url": UPSTREAM, "mirror_cache_expiry": float("inf")},
         "seconds"),
        ({"type": "mirror", "mirror_url": UPSTREAM, "mirror_cache_expiry": 2**70}, "seconds"),
    ],
)  # fmt: skip
def test_refusals(given: dict[str, Any], message: str) -> None:
    """Each value that cannot be is refused with a sentence that names it."""
    with pytest.raises(InvalidRequest, match=message):
        parse_options(NAME, given)


def test_what_mirrors_ignore() -> None:
    """devpi discards a stage's options on a mirror silently, and `projects` on both."""
    found = mirror(bases="root/pypi", acl_upload="ann", mirror_whitelist="*", projects=[])
    assert found == mirror()
    assert stage(projects=["foo"]) == stage()


def test_free_options_pass_through() -> None:
    """Title, description and custom data are kept as they are, on both kinds."""
    free = {"title": "T", "description": "D", "custom_data": {"a": [1, None]}}
    assert stage(**free).options == free
    assert mirror(**free).options == free
    extra = mirror(mirror_web_url_fmt="https://up.example/{name}", mirror_use_external_urls="yes")
    assert extra.options["mirror_use_external_urls"] is True


def test_seconds_may_be_texts() -> None:
    """Numbers come as JSON numbers or as texts (`devpi index key=value`)."""
    assert mirror(mirror_cache_expiry="60", max_stale=0).mirror_cache_expiry == 60


stage_options = st.fixed_dictionaries(
    {},
    optional={
        "bases": st.lists(st.sampled_from(("root/pypi", "ann/prod"))),
        "volatile": st.booleans(),
        "acl_upload": st.lists(st.sampled_from(("ann", ":ANONYMOUS:"))),
        "mirror_whitelist": st.lists(st.sampled_from(("foo", "*"))),
        "mirror_whitelist_inheritance": st.sampled_from(("union", "intersection")),
        "title": st.text(),
        "custom_data": st.none() | st.integers() | st.lists(st.text()),
    },
)


@given(stage_options)
def test_options_survive_the_log(given: dict[str, Any]) -> None:
    """What the log holds of an index makes the same index again, on any node."""
    index = parse_options(NAME, given)
    assert index_from_options(NAME, kind_of(index), to_options(index)) == index
    assert parse_options(NAME, {"type": kind_of(index), **to_options(index)}) == index


# -- the commands


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LISTEN", "STATE_DIR", "SECRET_FILE", "OUTSIDE_URL", "PRIMARY_URL",
                 "ROOT_PYPI_URL", "ROOT_PASSWD_FILE"):  # fmt: skip
        monkeypatch.delenv(f"PYMIRROR_{name}", raising=False)


def primary(*arguments: str) -> PrimaryOptions:
    options = PrimaryOptions()
    options.parseOptions(list(arguments))
    return options


def replica(*arguments: str) -> ReplicaOptions:
    options = ReplicaOptions()
    options.parseOptions(list(arguments))
    return options


def test_primary_defaults() -> None:
    """Without any option a primary listens on this machine alone and mirrors the default."""
    options = primary()
    settings = options.settings()
    assert settings.listen == (DEFAULT_LISTEN,)
    assert settings.state_dir == Path("~/.pymirror/primary").expanduser()
    assert settings.secret_file == settings.state_dir / "secret"
    assert settings.outside_url is None
    wish = options.first_start()
    assert wish.root_pypi_url() == pypi_simple.PYPI_SIMPLE_ENDPOINT
    assert wish.root_password is None


def test_primary_options() -> None:
    """What is given counts; --listen may be given more than once."""
    with tempfile.NamedTemporaryFile("w") as password:
        password.write("secret\n")
        password.flush()
        options = primary(
            "--listen", "tcp:1", "--listen", "tcp:2", "--state-dir", "/s", "--secret-file", "/x",
            "--outside-url", "https://h.example", "--root-passwd-file", password.name,
            "--root-pypi-url", UPSTREAM,
        )  # fmt: skip
        assert options.settings().listen == ("tcp:1", "tcp:2")
        assert options.settings().secret_file == Path("/x")
        assert options.settings().outside_url == "https://h.example"
        assert options.first_start().root_password == "secret"
        assert options.first_start().root_pypi_url() == UPSTREAM
        assert primary("--no-root-pypi").first_start().root_pypi_url() is None


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option is an environment variable too; the command line goes first."""
    monkeypatch.setenv("PYMIRROR_LISTEN", "tcp:1,tcp:2")
    monkeypatch.setenv("PYMIRROR_STATE_DIR", "/env")
    monkeypatch.setenv("PYMIRROR_PRIMARY_URL", "http://p.example:3141")
    assert replica().settings().listen == ("tcp:1", "tcp:2")
    assert replica().settings().state_dir == Path("/env")
    assert replica("--state-dir", "/cli").settings().state_dir == Path("/cli")
    assert replica()["primary-url"] == "http://p.example:3141"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--outside-url", "h.example"],
        ["--outside-url", "ftp://h.example"],
        ["--root-pypi-url", "http://"],
        ["--root-passwd-file", "/does/not/exist"],
        ["--what"],
        ["argument"],
    ],
)
def test_primary_refusals(arguments: list[str]) -> None:
    """A value that cannot be ends the command with a sentence, before anything starts."""
    with pytest.raises(usage.UsageError):
        primary(*arguments)


@pytest.mark.parametrize("arguments", [[], ["--primary-url", "p.example:3141"]])
def test_replica_refusals(arguments: list[str]) -> None:
    """A replica needs the URL of its primary."""
    with pytest.raises(usage.UsageError, match="primary"):
        replica(*arguments)
