"""The operators of PATCH: each form, each refusal, and what must hold for any text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import InvalidRequest
from cluster.model import Index
from cluster.names import IndexName
from cluster.state.operators import Operation, Operator, operations
from cluster.state.options import (
    Parsed,
    index_from_options,
    kind_of,
    parse_options,
    patch_options,
    to_options,
)
from tests.strategies import json_values

NAME = IndexName("ann/dev")
STAGE = parse_options(NAME, {
    "bases": "root/pypi,ann/prod", "mirror_whitelist": "foo", "title": "t",
    "custom_data": ["a"], "webhook_url": "https://u:p@ci.example/",
})  # fmt: skip
MIRROR = parse_options(NAME, {"type": "mirror", "mirror_url": "https://u:p@upstream.example/"})
LISTS = ("bases", "acl_upload", "acl_toxresult_upload", "acl_pkg_read", "acl_admin",
         "mirror_whitelist")  # fmt: skip


def patch(current: Parsed, *texts: object) -> Parsed:
    return patch_options(NAME, current.index, current.secrets, list(texts))


def options(current: Parsed, *texts: object) -> dict[str, Any]:
    return to_options(patch(current, *texts).index)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("title=a=b", Operation(Operator.SET, "title", "a=b")),
        ("title=", Operation(Operator.SET, "title", "")),
        ("bases+=a/b", Operation(Operator.ADD, "bases", "a/b")),
        ("bases+=", Operation(Operator.ADD, "bases", "")),
        ("bases-=a/b", Operation(Operator.REMOVE, "bases", "a/b")),
        ("title-=", Operation(Operator.DROP, "title")),
        ("title=+=x", Operation(Operator.SET, "title", "+=x")),
        ("title-+=x", Operation(Operator.ADD, "title-", "x")),
    ],
)
def test_forms(text: str, expected: Operation) -> None:
    """A text is split at its first equals sign; the sign before that is the operator."""
    assert operations([text]) == [expected]


@pytest.mark.parametrize(
    ("texts", "key", "expected"),
    [
        (["bases=root/pypi"], "bases", ["root/pypi"]),
        (["bases="], "bases", []),
        (["bases+=bob/dev"], "bases", ["root/pypi", "ann/prod", "bob/dev"]),
        (["bases+=/root/pypi"], "bases", ["root/pypi", "ann/prod"]),
        (["bases+=bob/dev,bob/dev,root/pypi"], "bases", ["root/pypi", "ann/prod", "bob/dev"]),
        (["bases-=/root/pypi/"], "bases", ["ann/prod"]),
        (["bases-=root/pypi,ann/prod"], "bases", []),
        (["bases+=bob/dev", "bases-=root/pypi"], "bases", ["ann/prod", "bob/dev"]),
        (["mirror_whitelist+=Foo.Bar"], "mirror_whitelist", ["foo", "foo-bar"]),
        (["mirror_whitelist-=FOO"], "mirror_whitelist", []),
        (["acl_upload+=:anonymous:"], "acl_upload", ["ann", ":ANONYMOUS:"]),
        (["acl_upload-=ann"], "acl_upload", []),
        (["acl_pkg_read-=:anonymous:"], "acl_pkg_read", []),
        (["volatile=False"], "volatile", False),
        (["title=x", "title=y"], "title", "y"),
        (["title="], "title", ""),
        (["custom_data+=b", "custom_data+=a"], "custom_data", ["a", "b"]),
        (["custom_data-=a"], "custom_data", []),
        (["projects=foo", "projects+=x", "projects-="], "title", "t"),
        (["type=stage"], "title", "t"),
    ],
)
def test_changes(texts: list[str], key: str, expected: object) -> None:
    """Operations change one option each, in their order, and no other."""
    changed = options(STAGE, *texts)
    assert changed[key] == expected
    assert {**changed, key: None} == {**to_options(STAGE.index), key: None}


@pytest.mark.parametrize("key", ["title", "custom_data", "webhook_url", "description"])
def test_options_without_default_can_be_dropped(key: str) -> None:
    """`key-=` takes an option away, and does nothing where there is none."""
    assert key not in options(STAGE, f"{key}-=")
    assert patch(patch(STAGE, f"{key}-="), f"{key}-=") == patch(STAGE, f"{key}-=")


def test_dropped_numbers_go_back_to_the_default() -> None:
    """What devpi calls unset for a mirror is the default here."""
    changed = patch(MIRROR, "mirror_cache_expiry=5", "mirror_use_external_urls=yes")
    assert changed != MIRROR
    assert patch(changed, "mirror_cache_expiry-=", "mirror_use_external_urls-=") == MIRROR


@pytest.mark.parametrize(
    ("current", "text", "message"),
    [
        *[(STAGE, f"{key}-=", "Default values can't be removed.") for key in LISTS],
        (STAGE, "volatile-=", "Default values can't be removed."),
        (STAGE, "mirror_whitelist_inheritance-=", "Default values can't be removed."),
        (MIRROR, "volatile-=", "Default values can't be removed."),
        (MIRROR, "acl_pkg_read-=", "Default values can't be removed."),
        (STAGE, "title+=x", "title holds no list"),
        (STAGE, "title-=t", "title holds no list"),
        (STAGE, "description+=x", "description holds no list"),
        (STAGE, "volatile+=x", "volatile holds no list"),
        (STAGE, "webhook_secret+=x", "webhook_secret holds no list"),
        (MIRROR, "mirror_url+=x", "mirror_url holds no list"),
        (STAGE, "bases-=bob/dev", "'bob/dev' is not in bases"),
        (STAGE, "acl_upload-=bob", "'bob' is not in acl_upload"),
        (STAGE, "custom_data-=b", "'b' is not in custom_data"),
        (STAGE, "bases+=pypi,dev", "'pypi', invalid base index spec: 'dev'"),
        (STAGE, "bases-=pypi", "invalid base index spec"),
        (STAGE, "bases+=ann/dev", "ann/dev cannot be its own base"),
        (STAGE, "titel=x", "unexpected keyword arguments: titel"),
        (STAGE, "titel+=x", "unexpected keyword arguments: titel"),
        (STAGE, "titel-=", "unexpected keyword arguments: titel"),
        (STAGE, "volatile=perhaps", "volatile must be true or false"),
        (STAGE, "title", "operation 1 is not of the form"),
        (STAGE, "", "operation 1 is not of the form"),
        (STAGE, 5, "operation 1 is not of the form"),
        (STAGE, ["a=b"], "operation 1 is not of the form"),
        (STAGE, "=x", "operation 1 names no option"),
        (STAGE, "+=x", "operation 1 names no option"),
        (STAGE, "-=", "operation 1 names no option"),
    ],
)
def test_refusals(current: Parsed, text: object, message: str) -> None:
    """What devpi answers with 500, or with 400, is a sentence here."""
    with pytest.raises(InvalidRequest) as refused:
        patch(current, text)
    assert message in str(refused.value)


@pytest.mark.parametrize("body", [None, 5, "title=x", True])
def test_bodies_that_are_no_patch(body: object) -> None:
    """A body is an object or a list."""
    with pytest.raises(InvalidRequest, match="an object, or a list"):
        operations(body)


def test_options_of_others_are_kept() -> None:
    """What an import brought along stays through changes of other options, and can be dropped."""
    known = {**to_options(STAGE.index), "plugin": ["a"], "flag": "x"}
    index = index_from_options(NAME, "stage", known)
    imported = Parsed(index, {})
    assert options(imported, "title=x", "bases-=root/pypi")["plugin"] == ["a"]
    assert options(imported, "plugin+=b")["plugin"] == ["a", "b"]
    assert "flag" not in options(imported, "flag-=")
    with pytest.raises(InvalidRequest, match="unexpected keyword arguments: flag"):
        patch(imported, "flag=y")


words = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zs")), max_size=6)
values = {
    "bases": st.sampled_from(("root/pypi", "/ann/prod", "bob/x", "bob/y/")),
    "mirror_whitelist": st.sampled_from(("foo", "Foo_Bar", "foo-bar", "*", "b.c")),
}


@st.composite
def list_values(draw: st.DrawFn) -> tuple[str, str]:
    """A list option, and a text for it."""
    key = draw(st.sampled_from(LISTS))
    user = st.sampled_from(("ann", "bob", ":anonymous:", ":dev", ":AUTHENTICATED:"))
    return key, draw(values.get(key, user))


@given(st.lists(list_values()), list_values())
def test_adding_twice_is_adding_once(before: list[tuple[str, str]], new: tuple[str, str]) -> None:
    """`+=` of what is there changes nothing, however it is written."""
    key, value = new
    once = patch(STAGE, *[f"{k}+={v}" for k, v in before], f"{key}+={value}")
    assert patch(once, f"{key}+={value}") == once
    assert patch(once, f"{key}+= ,{value}, ") == once


@given(st.lists(list_values()), list_values())
def test_removing_what_was_added(before: list[tuple[str, str]], new: tuple[str, str]) -> None:
    """`+=` then `-=` restores what was, unless it was there before; then `-=` takes it."""
    key, value = new
    current = patch(STAGE, *[f"{k}+={v}" for k, v in before])
    added = patch(current, f"{key}+={value}")
    removed = patch(added, f"{key}-={value}")
    assert removed != added
    assert (removed == current) is (added != current)
    with pytest.raises(InvalidRequest):
        patch(removed, f"{key}-={value}")


def survives(index: Index) -> None:
    assert index_from_options(NAME, kind_of(index), to_options(index)) == index


known_keys = (*to_options(STAGE.index), *to_options(MIRROR.index), "type", "projects",
              "webhook_secret", "uploadtrigger_jenkins")  # fmt: skip
keys = st.sampled_from(known_keys) | words
urls = st.just("https://a:b@c/") | st.builds("https://{}@{}/{}".format, words, words, words)
texts = st.builds("{}{}{}".format, keys, st.sampled_from(("=", "+=", "-=", "")), words | urls)


@given(st.sampled_from((STAGE, MIRROR)), st.lists(texts | json_values, max_size=4))
def test_any_list_is_taken_or_refused(current: Parsed, body: list[Any]) -> None:
    """No text makes anything but a valid index or a refusal."""
    try:
        found = patch(current, *body)
    except InvalidRequest:
        return
    survives(found.index)
    assert type(found.index) is type(current.index)


@given(st.sampled_from((STAGE, MIRROR)), st.dictionaries(keys, json_values, max_size=4))
def test_any_object_is_taken_or_refused(current: Parsed, body: dict[str, Any]) -> None:
    """The same for objects, sent to change an index and to make one."""
    for attempt in (
        lambda: patch_options(NAME, current.index, current.secrets, body),
        lambda: parse_options(NAME, body),
    ):
        try:
            found = attempt()
        except InvalidRequest:
            continue
        survives(found.index)
