"""From the fields of an upload's form to the metadata of a release (pure; devpi-api §6).

Keys are devpi's, where the form's or the specification's differ; those newer than devpi (core
metadata 2.4 to 2.6, standards V1) have the specification's names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from cluster.errors import InvalidRequest
from cluster.log.changes import Change, Kind, in_parts
from cluster.names import IndexName, NormalizedName
from cluster.state.contents import joined_metadata

Metadata = Mapping[str, Any]
"""What is stored of a release: text, or lists of text, by key."""

TEXTS: Final = (
    "name", "version", "metadata_version", "summary", "home_page", "author", "author_email",
    "maintainer", "maintainer_email", "license", "license_expression", "description",
    "description_content_type", "keywords", "download_url", "comment", "requires_python",
)  # fmt: skip
LISTS: Final = (
    "platform", "supported_platform", "classifiers", "provides", "requires", "obsoletes",
    "project_urls", "provides_dist", "obsoletes_dist", "requires_dist", "requires_external",
    "provides_extras", "dynamic", "license_file", "import_names", "import_namespaces",
)  # fmt: skip

# What twine, uv, devpi-client and packaging call a field that is stored under another name.
_SPELLINGS: Final = {
    "platforms": "platform",
    "supported_platforms": "supported_platform",
    "classifier": "classifiers",
    "project_url": "project_urls",
    "provides_extra": "provides_extras",
    "license_files": "license_file",
    "import_name": "import_names",
    "import_namespace": "import_namespaces",
}
_NEWEST_MAJOR: Final = 2


def metadata_of_form(
    fields: Mapping[str, list[str]], name: str, version: str
) -> dict[str, str | list[str]]:
    """The metadata that a form states; `name` and `version` are those of the release.

    Only what the form has is in the result. ``UNKNOWN``, which old tools write for nothing, is
    nothing. Raises InvalidRequest for a field that has one value and is given two, and for
    metadata of a version with other rules (standards V3).
    """
    found: dict[str, str | list[str]] = {}
    for field, values in fields.items():
        key = _SPELLINGS.get(field, field)
        said = [value for value in values if value not in ("", "UNKNOWN")]
        if key in LISTS:
            known = found.setdefault(key, [])
            assert isinstance(known, list)  # noqa: S101 (keys of LISTS have lists)
            known += [value for value in said if value not in known]
        elif key in TEXTS:
            found[key] = _text(key, said)
    _check_metadata_version(str(found.get("metadata_version", "")))
    return {**found, "name": name, "version": version}


def _text(key: str, values: list[str]) -> str:
    if key == "keywords":  # twine repeats the field, the specification joins by commas
        return ",".join(values)
    if len(set(values)) > 1:
        raise InvalidRequest(f"the form has the field {key!r} twice, with different values")
    return values[0] if values else ""


def _check_metadata_version(version: str) -> None:
    if not version:
        return
    numbers = re.fullmatch(r"(\d{1,3})\.\d{1,3}", version, re.ASCII)
    if numbers is None or int(numbers[1]) > _NEWEST_MAJOR:
        raise InvalidRequest(f"invalid metadata: version {version[:50]!r} is not understood")


def complete(metadata: Metadata) -> dict[str, Any]:
    """Metadata with all keys: what is not said is empty."""
    return {**dict.fromkeys(TEXTS, ""), **{key: [] for key in LISTS}, **metadata}


def release_changes(
    index: IndexName,
    project: NormalizedName,
    known: Metadata | None,
    metadata: Metadata,
    stage: Mapping[str, str],
) -> list[Change]:
    """What to record so that a release has this metadata; nothing when it has it already.

    `known` is what is recorded of the release, None for nothing. `stage` is put into the
    payloads. Raises InvalidRequest for more than the log takes.
    """
    if metadata == known:
        return []
    release = {
        "index": index, "project": project, "name": metadata["name"],
        "version": metadata["version"], **stage,
    }  # fmt: skip
    pairs = joined_metadata(metadata)
    return in_parts(Kind.RELEASE_SET, release, [("metadata", pair) for pair in pairs])


def updated(known: Metadata | None, metadata: Metadata) -> dict[str, Any]:
    """A file's metadata on top of what its release has: only the keys that were sent change.

    The name stays as it was written first: files of one release may spell it in different ways.
    """
    if known is None:
        return complete(metadata)
    return {**known, **metadata, "name": known.get("name", metadata["name"])}
