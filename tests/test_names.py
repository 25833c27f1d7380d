"""Names and versions: any text is taken or refused, and what is taken has one form."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename
from packaging.version import Version

from cluster.errors import InvalidRequest
from cluster.names import (
    display_version,
    index_name,
    is_filename,
    normalize,
    project_name,
    version_from_filename,
    version_sort_key,
)
from cluster.state.contents import same_version

ALPHABET = "aZ09._-"
projects = st.text(ALPHABET, min_size=1, max_size=20)
numbers = st.integers(0, 10**6)
versions = st.builds(
    lambda release, pre, post, dev, local: ".".join(map(str, release)) + pre + post + dev + local,
    st.lists(numbers, min_size=1, max_size=4),
    st.sampled_from(["", "a1", "b2", "rc3", ".alpha4", "-BETA_5"]),
    st.sampled_from(["", ".post1", "-2", ".rev3"]),
    st.sampled_from(["", ".dev0", "_dev7"]),
    st.sampled_from(["", "+cu116", "+local.1", "+Ubuntu-2"]),
)


@given(st.text())
@example("")
def test_any_project_name(text: str) -> None:
    """A name of the grammar is normalized as PEP 503 says; any other is refused, not changed."""
    grammar = re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", text, re.ASCII)
    if grammar is None or len(text) > 255:
        with pytest.raises(InvalidRequest):
            project_name(text)
    else:
        assert project_name(text) == re.sub(r"[-_.]+", "-", text).lower()


@given(projects)
def test_normalizing_twice_is_normalizing_once(text: str) -> None:
    """Two spellings of a project are one project for ever."""
    assert normalize(normalize(text)) == normalize(text)
    assert normalize(text.upper().replace("-", "_")) == normalize(text.lower().replace("_", "-"))


@given(st.text(), st.text())
@example("root", "dev")
@example("root", "..")
@example("+tokens", "x")
def test_any_index_name(user: str, index: str) -> None:
    """An index's name is two path segments that need no quotes; all else is refused."""
    try:
        made = index_name(user, index)
    except InvalidRequest:
        return
    assert made == f"{user}/{index}"
    assert made.count("/") == 1
    assert not re.search(r"[\x00-\x20\x7f%?#\\:]", made)
    assert not any(part.startswith("+") or part in (".", "..") for part in (user, index))


@given(versions)
def test_versions_have_one_form(text: str) -> None:
    """Spellings that PEP 440 holds equal are shown and looked up alike."""
    assert display_version(text) == str(Version(text))
    assert display_version(display_version(text)) == display_version(text)
    assert same_version(text, f" v{text} ".strip().upper())


@given(st.text())
def test_any_version(text: str) -> None:
    """A version outside PEP 440 stays as it was written, and still has a place in the order."""
    shown = display_version(text)
    assert display_version(shown) == shown
    assert version_sort_key(text)[0] in (0, 1)


@given(st.lists(versions | st.text(max_size=8), max_size=12))
def test_versions_are_sorted_by_pep_440(texts: list[str]) -> None:
    """Valid ones in the order of `packaging`, behind all that are not, whatever came first."""
    ordered = sorted(texts, key=version_sort_key)
    backwards = list(reversed(texts))
    assert ordered == sorted(backwards, key=version_sort_key)
    valid = [Version(text) for text in ordered if version_sort_key(text)[0]]
    assert valid == sorted(valid)
    assert [version_sort_key(text)[0] for text in ordered] == sorted(
        version_sort_key(text)[0] for text in texts
    )


names = st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,6}([._-][A-Za-z0-9]{1,5}){0,2}", fullmatch=True)


@given(names, versions)
def test_versions_out_of_file_names(name: str, version: str) -> None:
    """Wheels and source distributions state the version that `packaging` reads in them."""
    normal = str(Version(version))
    escaped = canonicalize_name(name).replace("-", "_")
    wheel = f"{escaped}-{normal.replace('-', '_')}-py3-none-any.whl"
    sdist = f"{escaped}-{normal}.tar.gz"
    assert is_filename(wheel)
    project = normalize(name)
    assert version_from_filename(wheel, project) == str(parse_wheel_filename(wheel)[1])
    assert version_from_filename(sdist, project) == str(parse_sdist_filename(sdist)[1])
