"""The bench's arithmetic and its data set; never its timings."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile

import pytest
from packaging.utils import parse_sdist_filename, parse_wheel_filename

from bench.client import Address, upload_body
from bench.data import big_filenames, project_files, project_names, sized_files
from bench.load import lua_string, raw_get
from bench.report import goals, reference_of
from bench.results import Results, percentile


def rounds(results: Results, subject: str, rates: list[float]) -> None:
    for number, rate in enumerate(rates):
        results.add("pages", "small pip", subject, number, {"rate": rate})


def test_ratio_is_taken_within_rounds() -> None:
    """A round in which the machine was slow for both does not move the ratio."""
    results = Results()
    rounds(results, "pymirror primary", [500.0, 50.0, 480.0])
    rounds(results, "nginx", [1000.0, 100.0, 1000.0])
    assert results.ratio("pages", "small pip", "pymirror primary", "nginx", "rate") == 0.5
    assert results.median("pages", "small pip", "pymirror primary", "rate") == 480.0


def test_ratio_without_a_common_round_is_none() -> None:
    """A subject that failed, or was left out, gives no ratio instead of a wrong one."""
    results = Results()
    rounds(results, "pymirror primary", [500.0])
    assert results.ratio("pages", "small pip", "pymirror primary", "nginx", "rate") is None
    assert results.median("pages", "small pip", "nginx", "rate") is None


@pytest.mark.parametrize(
    ("percent", "value"), [(50, 2.0), (75, 3.0), (99, 4.0), (100, 4.0), (1, 1.0)]
)
def test_percentile_is_the_nearest_rank(percent: float, value: float) -> None:
    """Percentiles are measured values, never interpolated ones."""
    assert percentile([4.0, 1.0, 3.0, 2.0], percent) == value


def test_each_node_is_compared_with_its_like() -> None:
    """A replica is set against devpi's replica, and nothing against itself."""
    assert reference_of("pymirror replica", "devpi") == "devpi replica"
    assert reference_of("pymirror replica", "nginx") == "nginx"
    assert reference_of("devpi primary", "devpi") is None
    assert reference_of("nginx", "nginx") is None


def test_goals_are_only_those_with_figures() -> None:
    """A goal is shown as met or missed when it was measured, else not at all."""
    results = Results()
    rounds(results, "pymirror primary", [500.0])
    rounds(results, "devpi primary", [10.0])
    assert list(goals(results)) == [("primary: pages/s at least 25 × devpi's", "50 ×", True)]


def test_short_logs_are_not_judged() -> None:
    """Of few entries the start is most of what catching up takes."""
    for entries, judged in ((6_000.0, 0), (50_000.0, 1)):
        results, figures = Results(), {"rate": 9_000.0, "entries": entries}
        results.add("catchup", "by tail", "pymirror replica", 0, figures)
        assert len(list(goals(results))) == judged


def test_data_set_is_the_same_every_time() -> None:
    """Two generations of the data set are equal byte for byte, and all files differ."""
    first, second = (
        [hashlib.sha256(f.content).digest() for f in project_files(project_names(3), 2)]
        for _ in range(2)
    )
    assert first == second
    assert len(set(first)) == 12


def test_data_set_has_proper_files() -> None:
    """Names follow the specifications and metadata agrees with them, as an index demands."""
    wheel, sdist = list(project_files(project_names(1), 1))
    name, version, _, _ = parse_wheel_filename(wheel.filename)
    assert parse_sdist_filename(sdist.filename) == (name, version)
    with zipfile.ZipFile(io.BytesIO(wheel.content)) as archive:
        metadata = archive.read("bench_project_000-1.0.dist-info/METADATA").decode()
    with tarfile.open(fileobj=io.BytesIO(sdist.content)) as packed:
        member = packed.extractfile("bench_project_000-1.0/PKG-INFO")
        assert member is not None
        assert member.read().decode() == metadata
    assert "Name: bench-project-000\nVersion: 1.0\n" in metadata


def test_sized_files_have_their_size() -> None:
    """The small one is near 20 kB, the large one as large as was asked for."""
    small, large = sized_files(1_000_000)
    assert 19_000 < len(small.content) < 21_000
    assert 1_000_000 < len(large.content) < 1_002_000


def test_big_project_has_distinct_proper_names() -> None:
    """All file names of the big project are wheels of the version they are listed for."""
    files = list(big_filenames(2000))
    assert len({filename for _, filename in files}) == 2000
    for version, filename in files[::97]:
        assert str(parse_wheel_filename(filename)[1]) == version


def test_upload_form_holds_the_file() -> None:
    """The content goes into the form untouched, with its digest."""
    file = next(project_files(project_names(1), 1))
    body = upload_body(file)
    assert file.content in body
    assert hashlib.sha256(file.content).hexdigest().encode() in body


def test_requests_survive_the_load_script() -> None:
    """Every byte of a request reaches the generator's script in a form that Lua reads back."""
    request = raw_get(Address(80), "/p/", {"If-None-Match": '"a\\b"'})
    assert request.endswith(b'If-None-Match: "a\\b"\r\n\r\n')
    assert lua_string(b'"\\\r\n~') == '"\\034\\092\\013\\010~"'
