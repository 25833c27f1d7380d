"""Index options: defaults and each check of devpi-api §4, and the options of both commands."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pypi_simple
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.python import usage

from cluster.errors import InvalidRequest
from cluster.model import HostedIndex, MirrorIndex
from cluster.names import IndexName
from cluster.options import DEFAULT_LISTEN
from cluster.state.options import (
    Parsed,
    index_from_options,
    kind_of,
    missing_bases,
    parse_options,
    patch_options,
    require_bases,
    shown_options,
    to_options,
)
from primary.tap import Options as PrimaryOptions
from replica.tap import Options as ReplicaOptions

NAME = IndexName("ann/dev")
UPSTREAM = "https://upstream.example/simple/"
BLOB = "ab" * 32


def mirror(**given: Any) -> MirrorIndex:
    found = parse_options(NAME, {"type": "mirror", "mirror_url": UPSTREAM, **given}).index
    assert isinstance(found, MirrorIndex)
    return found


def stage(**given: Any) -> HostedIndex:
    found = parse_options(NAME, given).index
    assert isinstance(found, HostedIndex)
    return found


def patch(current: Parsed, change: object) -> Parsed:
    return patch_options(NAME, current.index, current.secrets, change)


STAGE_DEFAULTS = {
    "bases": [], "volatile": True, "acl_upload": ["ann"],
    "acl_toxresult_upload": [":ANONYMOUS:"], "mirror_whitelist": [],
    "mirror_whitelist_inheritance": "intersection", "acl_pkg_read": [":ANONYMOUS:"],
    "acl_admin": [],
}  # fmt: skip
MIRROR_SHOWN = {
    "mirror_url": UPSTREAM, "volatile": True, "max_stale": 3600,
    "acl_pkg_read": [":ANONYMOUS:"], "acl_admin": [],
}  # fmt: skip


def test_stage_defaults() -> None:
    """An empty body makes a hosted index that only its user may upload to."""
    assert to_options(stage()) == shown_options(stage()) == STAGE_DEFAULTS
    assert kind_of(stage(type="stage")) == "stage"


def test_mirror_defaults() -> None:
    """A mirror is shown with what devpi shows, and ours; the log has every option."""
    assert shown_options(mirror()) == MIRROR_SHOWN
    assert to_options(mirror()) == {
        **MIRROR_SHOWN, "mirror_cache_expiry": 1800, "mirror_use_external_urls": False,
        "mirror_no_project_list": False, "mirror_ignore_serial_header": False,
        "mirror_provides_core_metadata": False, "mirror_allow_mass_removal": False,
    }  # fmt: skip
    assert shown_options(mirror(mirror_cache_expiry=5)) == {**MIRROR_SHOWN,
                                                            "mirror_cache_expiry": 5}  # fmt: skip
    assert kind_of(mirror()) == "mirror"


def test_a_mirror_may_wait_for_its_url() -> None:
    """`devpi index -c douban type=mirror bases=root/pypi` comes before the URL, in two steps."""
    made = parse_options(NAME, {"type": "mirror", "bases": "root/pypi"})
    assert isinstance(made.index, MirrorIndex)
    assert made.index.mirror_url is None
    assert made.notes == ("bases are ignored: a mirror has none",)
    assert "mirror_url" not in to_options(made.index)
    web = "https://upstream.example/simple/{name}/"
    changed = patch(made, [f"mirror_web_url_fmt={web}", f"mirror_url={UPSTREAM}"])
    assert changed == Parsed(mirror(mirror_web_url_fmt=web), {})
    assert patch(changed, ["mirror_url-=", "mirror_web_url_fmt-="]).index == made.index


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
        ("acl_toxresult_upload", ":dev,bob", (":dev", "bob")),
        ("acl_pkg_read", [":authenticated:"], (":AUTHENTICATED:",)),
        ("acl_admin", "bob", ("bob",)),
        ("mirror_whitelist", "Foo_Bar, *", ("foo-bar", "*")),
        ("mirror_whitelist_inheritance", "union", "union"),
    ],
)  # fmt: skip
def test_stage_values(key: str, value: object, expected: object) -> None:
    """Texts and JSON values are read as devpi reads them."""
    assert getattr(stage(**{key: value}), key) == expected


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("mirror_url", "https://nvidia.example", "https://nvidia.example"),
        ("mirror_url", "http://[::1]:3141/root/pypi/+simple/", "http://[::1]:3141/root/pypi/+simple/"),
        ("mirror_url", "https://@upstream.example/", "https://upstream.example/"),
        ("volatile", "no", False),
        ("mirror_cache_expiry", "60", 60), ("max_stale", 0, 0),
        ("mirror_web_url_fmt", "https://up.example/{name}/", "https://up.example/{name}/"),
        ("mirror_use_external_urls", "yes", True), ("mirror_no_project_list", True, True),
        ("mirror_ignore_serial_header", "TRUE", True),
        ("mirror_provides_core_metadata", "true", True),
        ("mirror_allow_mass_removal", "yes", True),
        ("acl_pkg_read", "ann,:dev", ("ann", ":dev")), ("acl_admin", ["bob"], ("bob",)),
    ],
)  # fmt: skip
def test_mirror_values(key: str, value: object, expected: object) -> None:
    """Each option of a mirror, from JSON or from the text of a command line."""
    assert getattr(mirror(**{key: value}), key) == expected


TOO_DEEP: list[Any] = []
for _ in range(5_000):
    TOO_DEEP = [TOO_DEEP]

UNEXPECTED = "indexconfig got unexpected keyword arguments: "


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"type": "other"}, "unknown index type"),
        ({"type": ["stage"]}, "unknown index type"),
        ({"type": TOO_DEEP}, "unknown index type"),
        ({"colour": 1, "age": 2}, UNEXPECTED + "age, colour"),
        ({"mirror_url": UPSTREAM}, UNEXPECTED + "mirror_url"),
        ({"pypi_whitelist": []}, UNEXPECTED + "pypi_whitelist"),
        ({"mirror_cache_expiry": 5}, UNEXPECTED),
        ({"mirror_credentials": "a:b"}, UNEXPECTED),
        ({"secrets": BLOB}, UNEXPECTED),
        ({"name": "ann/other"}, UNEXPECTED),
        ({"volatile": "maybe"}, "volatile must be true or false"),
        ({"volatile": 1}, "volatile must be true or false"),
        ({"volatile": TOO_DEEP}, "volatile must be true or false"),
        ({"bases": "pypi"}, "invalid base index spec: 'pypi'"),
        ({"bases": "pypi,root/pypi,dev"},
         "invalid base index spec: 'pypi', invalid base index spec: 'dev'"),
        ({"bases": "root/"}, "invalid base index spec"),
        ({"bases": "root/+x"}, "not a valid index name"),
        ({"bases": "root/a b"}, "not allowed"),
        ({"bases": "root/a/b"}, "invalid base index spec: 'root/a/b'"),
        ({"bases": "root/pypi,ann/dev"}, "ann/dev cannot be its own base"),
        ({"bases": 5}, "must be a list"),
        ({"bases": [5]}, "must be a list"),
        ({"bases": TOO_DEEP}, "must be a list"),
        ({"acl_upload": {"ann": 1}}, "must be a list"),
        ({"acl_pkg_read": None}, "must be a list"),
        ({"mirror_whitelist": None}, "must be a list"),
        ({"mirror_whitelist_inheritance": "both"}, "'intersection' or 'union'"),
        ({"mirror_whitelist_inheritance": ["union"]}, "'intersection' or 'union'"),
        ({"custom_data": {"a": [1.5]}}, "fraction"),
        ({"title": 2**63}, "too large"),
        ({"custom_data": TOO_DEEP}, "nested deeper"),
        ({"uploadtrigger_jenkins": "ci.example/{pkgname}"}, "must start with http"),
        ({"uploadtrigger_jenkins": "https://ci.example/{name}"}, "{pkgname} and {pkgversion} and"),
        ({"uploadtrigger_jenkins": "https://ci.example/{pkgname"}, "no other braces"),
        ({"webhook_url": ""}, "must start with http"),
        ({"webhook_secret": ""}, "not empty"),
        ({"webhook_secret": 5}, "not empty"),
    ],
)  # fmt: skip
def test_stage_refusals(given: dict[str, Any], message: str) -> None:
    """Each value that cannot be is refused with a sentence that names it."""
    with pytest.raises(InvalidRequest, match=re.escape(message)):
        parse_options(NAME, given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mirror_url": ""}, "must start with http"),
        ({"mirror_url": None}, "must start with http"),
        ({"mirror_url": 5}, "must start with http"),
        ({"mirror_url": "ftp://upstream.example/"}, "must start with http"),
        ({"mirror_url": "https://"}, "with a host"),
        ({"mirror_url": "https://["}, "with a host"),
        ({"mirror_url": "https://ann:secret@/"}, "with a host"),
        ({"mirror_url": "https://upstream.example:99999/"}, "with a host"),
        ({"mirror_url": "https://upstream.example:port/"}, "with a host"),
        ({"mirror_url": UPSTREAM + "\r\nX: y"}, "with a host"),
        ({"mirror_url": UPSTREAM + "a b"}, "with a host"),
        ({"mirror_url": "https://evil.example\\@upstream.example/"}, "with a host"),
        ({"mirror_url": "https://a%3Ab:secret@upstream.example/"}, "cannot be sent"),
        ({"mirror_url": "https://ann:secret%0D%0A@upstream.example/"}, "cannot be sent"),
        ({"mirror_url": "https://ann:secret%FF@upstream.example/"}, "cannot be sent"),
        ({"mirror_web_url_fmt": "javascript:alert(1)"}, "must start with http"),
        ({"mirror_web_url_fmt": "https://up.example/{project}"}, "{name} and no other braces"),
        ({"mirror_web_url_fmt": "https://ann:secret@up.example/{name}"}, "everybody can see"),
        ({"mirror_cache_expiry": -1}, "seconds"),
        ({"mirror_cache_expiry": "soon"}, "seconds"),
        ({"mirror_cache_expiry": float("inf")}, "seconds"),
        ({"mirror_cache_expiry": 1.5}, "seconds"),
        ({"mirror_cache_expiry": 2**70}, "seconds"),
        ({"mirror_cache_expiry": "9" * 5_000}, "seconds"),
        ({"max_stale": True}, "seconds"),
        ({"max_stale": None}, "seconds"),
        ({"mirror_no_project_list": 3}, "true or false"),
        ({"acl_toxresult_upload": []}, UNEXPECTED),
        ({"webhook_url": "https://ci.example/"}, UNEXPECTED),
        ({"uploadtrigger_jenkins": "https://ci.example/"}, UNEXPECTED),
    ],
)  # fmt: skip
def test_mirror_refusals(given: dict[str, Any], message: str) -> None:
    """The same for mirrors; no message repeats a password."""
    with pytest.raises(InvalidRequest, match=re.escape(message)) as refused:
        mirror(**given)
    assert "secret" not in str(refused.value)


def test_what_mirrors_ignore() -> None:
    """devpi discards a stage's options on a mirror, we say so; and `projects` on both."""
    ignored = {"bases": "root/pypi", "acl_upload": "ann", "mirror_whitelist": "*",
               "pypi_whitelist": "*"}  # fmt: skip
    parsed = parse_options(NAME, {"type": "mirror", "mirror_url": UPSTREAM, **ignored})
    assert parsed.index == mirror(projects=[]) == mirror()
    assert len(parsed.notes) == len(ignored)
    assert patch(parsed, ["bases+=root/pypi", "bases=x"]).notes == (
        "bases are ignored: a mirror has none",
    )
    assert stage(projects=["foo"]) == stage()
    assert parse_options(NAME, {"bases": "root/pypi"}).notes == ()


def test_free_options_pass_through() -> None:
    """Title, description and custom data are kept as they are, on both kinds."""
    free = {"title": "T", "description": "D", "custom_data": {"a": [1, None, {"b": True}]}}
    assert stage(**free).options == free
    assert mirror(**free).options == free


@pytest.mark.parametrize(
    ("kind", "key", "secret", "clean", "carries"),
    [
        ("mirror", "mirror_url", "mirror_credentials", "https://up.example:8443/simple/",
         "https://ann:p%40ss%3Aword@up.example:8443/simple/"),
        ("stage", "uploadtrigger_jenkins", "trigger_credentials",
         "https://ci.example/job/{pkgname}/build?v={pkgversion}",
         "https://ann:p%40ss%3Aword@ci.example/job/{pkgname}/build?v={pkgversion}"),
        ("stage", "webhook_url", "webhook_credentials", "https://ci.example/hook#part",
         "https://ann:p%40ss%3Aword@ci.example/hook#part"),
    ],
)  # fmt: skip
def test_passwords_leave_urls(kind: str, key: str, secret: str, clean: str, carries: str) -> None:
    """A URL's user and password become a secret; another URL that comes without them loses it."""
    parsed = parse_options(NAME, {"type": kind, key: carries})
    assert parsed.secrets == {secret: "ann:p@ss:word"}
    assert to_options(parsed.index)[key] == shown_options(parsed.index)[key] == clean
    assert not any(part in repr(parsed.index) for part in ("ann:", "p@ss", "p%40ss"))
    assert patch(parsed, {key: clean}) == parsed
    assert patch(parsed, {key: clean.replace("https://", "https://other.")}).secrets == {}
    assert patch(parsed, [f"{key}-="]).secrets == {}
    bare = patch(parsed, {key: clean.replace("https://", "https://only@")})
    assert bare.secrets == {secret: "only:"}


printable = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")))


@given(printable.filter(lambda user: ":" not in user), printable)
def test_any_password_is_kept_exactly(user: str, password: str) -> None:
    """What was percent-encoded in a URL is the secret, to the letter."""
    url = f"https://{quote(user, safe='')}:{quote(password, safe='')}@upstream.example/simple/"
    parsed = parse_options(NAME, {"type": "mirror", "mirror_url": url})
    assert parsed == Parsed(mirror(), {"mirror_credentials": f"{user}:{password}"})


def test_other_secrets_are_kept() -> None:
    """A change of one secret leaves the others alone; the webhook's own is no option."""
    parsed = parse_options(NAME, {
        "webhook_url": "https://a:b@ci.example/", "webhook_secret": "s" * 40,
        "uploadtrigger_jenkins": "https://c:d@ci.example/",
    })  # fmt: skip
    everything = {"webhook_credentials": "a:b", "webhook_secret": "s" * 40,
                  "trigger_credentials": "c:d"}  # fmt: skip
    assert parsed.secrets == everything
    assert "webhook_secret" not in to_options(parsed.index)
    changed = patch(parsed, {"webhook_url": "https://other.example/"})
    assert changed.secrets == {k: everything[k] for k in ("webhook_secret", "trigger_credentials")}
    assert patch(parsed, ["webhook_secret-="]).secrets.keys() == everything.keys() - {
        "webhook_secret"
    }
    assert patch(parsed, {"title": "t"}).secrets == everything


def test_the_blob_is_named_while_it_is_right() -> None:
    """An index goes on naming its blob of secrets until they are others."""
    parsed = parse_options(NAME, {"webhook_secret": "s"})
    stored = Parsed(evolve(parsed.index, secrets=BLOB), parsed.secrets)
    assert patch(stored, {"title": "t"}).index.secrets == BLOB
    assert patch(stored, {"webhook_secret": "s"}) == stored
    assert patch(stored, {"webhook_secret": "other"}).index.secrets is None


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_patch_merges(wrapped: bool) -> None:
    """An object changes the keys it has; the whole answer to a GET is taken as well."""
    current = parse_options(NAME, {"bases": "root/pypi", "title": "t", "webhook_secret": "s"})
    options = {**shown_options(current.index), "type": "stage", "projects": ["foo"]}
    change: dict[str, Any] = {**options, "volatile": False} if wrapped else {"volatile": False}
    if wrapped:
        change = {"type": "indexconfig", "result": change, "message": "m"}
    assert patch(current, change) == Parsed(evolve(current.index, volatile=False), current.secrets)


def test_nothing_changes() -> None:
    """What changes nothing can be seen: the index and its secrets are equal."""
    current = parse_options(NAME, {"bases": "root/pypi", "webhook_secret": "s"})
    for change in ({}, [], {"bases": ["root/pypi"]}, ["bases+=/root/pypi"], ["title-="],
                   {"type": "stage"}, {"webhook_secret": "s"}):  # fmt: skip
        assert patch(current, change) == current


@pytest.mark.parametrize("change", [{"type": "mirror"}, ["type=mirror"], ["type-="], ["type+=x"],
                                    {"type": "indexconfig", "result": {"type": "mirror"}},
                                    {"type": "indexconfig"}])  # fmt: skip
def test_the_type_stays(change: object) -> None:
    """An index cannot change its type."""
    with pytest.raises(InvalidRequest, match="type"):
        patch(Parsed(stage(), {}), change)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("stage", {"bases": ["root/pypi"], "acl_upload": ["bob"], "volatile": False,
                   "mirror_whitelist": [], "mirror_whitelist_inheritance": "union"}),
        ("stage", {}),
        ("mirror", {"mirror_url": UPSTREAM, "volatile": False, "mirror_cache_expiry": 5,
                    "max_stale": 6, "title": "t", "mirror_use_external_urls": True}),
        ("mirror", {"mirror_url": UPSTREAM}),
    ],
)  # fmt: skip
def test_old_entries_load(kind: str, options: dict[str, Any]) -> None:
    """An entry that an older version wrote has the defaults of what it lacks."""
    index = index_from_options(NAME, kind, options)
    assert to_options(index).items() >= options.items()
    assert index.acl_pkg_read == (":ANONYMOUS:",)
    if "acl_upload" not in options and isinstance(index, HostedIndex):
        assert index.acl_upload == ("ann",)


def test_missing_bases() -> None:
    """All bases that do not exist are named at once, in their order; a mirror has none."""
    index = stage(bases="ann/x,root/pypi,ann/y,ann/x")
    assert missing_bases(index, lambda name: name == "root/pypi") == ["ann/x", "ann/y"]
    assert missing_bases(mirror(), lambda name: False) == []
    require_bases(index, lambda name: True)
    with pytest.raises(InvalidRequest) as refused:
        require_bases(index, lambda name: name == "root/pypi")
    assert str(refused.value) == (
        "base index 'ann/x' does not exist, base index 'ann/y' does not exist"
    )


lists = {
    "acl_upload": st.lists(st.sampled_from(("ann", ":ANONYMOUS:"))),
    "acl_pkg_read": st.lists(st.sampled_from(("ann", ":AUTHENTICATED:"))),
    "acl_admin": st.lists(st.sampled_from(("bob", ":dev"))),
}
free = {
    "volatile": st.booleans(),
    "title": st.text(),
    "custom_data": st.none() | st.integers(-(2**62), 2**62) | st.lists(st.text()),
}
stage_options = st.fixed_dictionaries(
    {},
    optional={
        **lists,
        **free,
        "bases": st.lists(st.sampled_from(("root/pypi", "ann/prod"))),
        "acl_toxresult_upload": st.lists(st.sampled_from(("ann", ":ANONYMOUS:"))),
        "mirror_whitelist": st.lists(st.sampled_from(("foo", "*"))),
        "mirror_whitelist_inheritance": st.sampled_from(("union", "intersection")),
        "webhook_url": st.just("https://ci.example/"),
    },
)
mirror_options = st.fixed_dictionaries(
    {"type": st.just("mirror")},
    optional={
        **free,
        "mirror_url": st.just(UPSTREAM),
        "mirror_cache_expiry": st.integers(0, 2**53),
        "max_stale": st.integers(0, 2**53),
        "mirror_web_url_fmt": st.just("https://up.example/{name}"),
        "mirror_use_external_urls": st.booleans(),
        "acl_pkg_read": lists["acl_pkg_read"],
    },
)


@given(stage_options | mirror_options)
def test_options_survive_the_log(given: dict[str, Any]) -> None:
    """What the log holds of an index makes the same index again, on any node."""
    parsed = parse_options(NAME, given)
    index = parsed.index
    assert index_from_options(NAME, kind_of(index), to_options(index)) == index
    assert parse_options(NAME, {"type": kind_of(index), **to_options(index)}).index == index
    assert parse_options(NAME, {"type": kind_of(index), **shown_options(index)}).index == index
    assert patch(parsed, shown_options(index)) == parsed


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
    wish = options.primary_settings().first_start
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
        assert options.primary_settings().first_start.root_password == "secret"
        assert options.primary_settings().first_start.root_pypi_url() == UPSTREAM
        assert primary("--no-root-pypi").primary_settings().first_start.root_pypi_url() is None


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option is an environment variable too; the command line goes first."""
    monkeypatch.setenv("PYMIRROR_LISTEN", "tcp:1,tcp:2")
    monkeypatch.setenv("PYMIRROR_STATE_DIR", "/env")
    monkeypatch.setenv("PYMIRROR_PRIMARY_URL", "http://p.example:3141")
    assert replica().settings().listen == ("tcp:1", "tcp:2")
    assert replica().settings().state_dir == Path("/env")
    assert replica("--state-dir", "/cli").settings().state_dir == Path("/cli")
    assert replica()["primary-url"] == ["http://p.example:3141"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--outside-url", "h.example"],
        ["--outside-url", "ftp://h.example"],
        ["--root-pypi-url", "http://"],
        ["--root-passwd-file", "/does/not/exist"],
        ["--what"],
        ["argument"],
        ["--min-free", "lots"],
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
