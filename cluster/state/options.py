"""Index options: from what people send to checked indexes, and back (pure; devpi-api §4).

Passwords never become options: parsing separates them from the URLs that carry them, for options
are in the log for ever, and secrets are in node-only blobs that the log names by digest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from reprlib import repr as shortened
from typing import Any, Final

from attrs import evolve, fields, frozen

from cluster.errors import InvalidRequest
from cluster.model import HostedIndex, Index, MirrorIndex
from cluster.names import IndexName
from cluster.state import optionvalues as check
from cluster.state.operators import Operation, Operator, combined, operations
from cluster.state.optionvalues import Check

_FREE: Final[Mapping[str, Check]] = dict.fromkeys(
    ("title", "description", "custom_data"), check.json_value
)
_LISTS: Final[Mapping[str, Check]] = {
    "bases": check.bases,
    "acl_upload": check.acl,
    "acl_toxresult_upload": check.acl,
    "acl_pkg_read": check.acl,
    "acl_admin": check.acl,
    "mirror_whitelist": check.whitelist,
}
_STAGE: Final[Mapping[str, Check]] = {
    **_LISTS,
    **_FREE,
    "volatile": check.truth,
    "mirror_whitelist_inheritance": check.inheritance,
    "uploadtrigger_jenkins": check.template("pkgname", "pkgversion"),
    "webhook_url": check.url,
    "webhook_secret": check.secret,
    "sync_replicas": check.replicas,
}
_MIRROR: Final[Mapping[str, Check]] = {
    **_FREE,
    "volatile": check.truth,
    "acl_pkg_read": check.acl,
    "acl_admin": check.acl,
    "mirror_url": check.url,
    "mirror_cache_expiry": check.seconds,
    "max_stale": check.seconds,
    "mirror_web_url_fmt": check.web_url,
    "mirror_use_external_urls": check.truth,
    "mirror_no_project_list": check.truth,
    "mirror_ignore_serial_header": check.truth,
    "mirror_provides_core_metadata": check.truth,
    "mirror_allow_mass_removal": check.truth,
}
_CHECKS: Final = {"stage": _STAGE, "mirror": _MIRROR}
_CLASSES: Final[Mapping[str, type[HostedIndex] | type[MirrorIndex]]] = {
    "stage": HostedIndex,
    "mirror": MirrorIndex,
}
# The secret that each option's URL may carry; webhook_secret is one itself.
_SECRET_OF: Final = {
    "mirror_url": "mirror_credentials",
    "uploadtrigger_jenkins": "trigger_credentials",
    "webhook_url": "webhook_credentials",
    "webhook_secret": "webhook_secret",
}
# devpi takes these for a mirror too, and does nothing with them.
_IGNORED_BY_MIRRORS: Final = {
    "bases": "bases are ignored: a mirror has none",
    "acl_upload": "acl_upload is ignored: a mirror takes no uploads",
    "mirror_whitelist": "mirror_whitelist is ignored: a mirror has no bases",
    "pypi_whitelist": "pypi_whitelist is ignored: a mirror has no bases",
}
# devpi shows these only where somebody set them.
_SHOWN_IF_SET: Final = {
    "mirror_cache_expiry", "mirror_use_external_urls", "mirror_no_project_list",
    "mirror_ignore_serial_header", "mirror_provides_core_metadata", "mirror_allow_mass_removal",
}  # fmt: skip


def _own(kind: str) -> set[str]:
    """The options that are fields of the index; all others are in its `options`."""
    return {f.name for f in fields(_CLASSES[kind])} - {"name", "options", "secrets"}


@frozen
class Parsed:
    """An index of checked options, and what does not belong in the log.

    `secrets` are all the secrets of the index: ``mirror_credentials``, ``trigger_credentials``,
    ``webhook_credentials`` (``user:password``, percent-decoded) and ``webhook_secret``. While
    they are those that the index had, `index.secrets` still names their blob; else it is None
    and the caller stores a blob, if there are any. `notes` are for the message of the answer.
    """

    index: Index
    secrets: Mapping[str, str]
    notes: tuple[str, ...] = ()


def parse_options(name: IndexName, given: Mapping[str, Any]) -> Parsed:
    """Check the JSON body of ``PUT /<user>/<index>`` and make the index; raises InvalidRequest."""
    kind = given.get("type", "stage")
    if kind not in ("stage", "mirror"):
        raise InvalidRequest(f"unknown index type {shortened(kind)}: use 'stage' or 'mirror'")
    empty = index_from_options(name, kind, {})
    return _changed(empty, {}, [Operation(Operator.SET, k, v) for k, v in given.items()])


def patch_options(
    name: IndexName, current: Index, secrets: Mapping[str, str], patch: object
) -> Parsed:
    """Check the JSON body of ``PATCH /<user>/<index>`` and change the index.

    `secrets` are those of the index as it is. Another URL that is given without a password loses
    the one that the old one had, so that none is sent to another host. Nothing changed if the
    result's `index` and `secrets` equal what was given. Raises InvalidRequest.
    """
    return _changed(evolve(current, name=name), secrets, operations(patch))


def _changed(current: Index, secrets: Mapping[str, str], steps: list[Operation]) -> Parsed:
    kind = kind_of(current)
    values, kept = to_options(current), dict(secrets)
    steps, notes = _relevant(kind, values, steps)
    for step in steps:
        if step.operator is Operator.SET:
            _set(step, _CHECKS[kind][step.key], values, kept)
        elif step.operator is Operator.DROP:
            _drop(step.key, values, kept)
        else:
            by = _LISTS.get(step.key)
            items = [step.value] if by is None else by(step.key, step.value)
            values[step.key] = combined(step, values.get(step.key), items)
    digest = current.secrets if kept == secrets else None
    index = index_from_options(current.name, kind, values, digest)
    if isinstance(index, HostedIndex) and index.name in index.bases:
        raise InvalidRequest(f"{index.name} cannot be its own base")
    return Parsed(index, kept, notes)


def _relevant(
    kind: str, values: Mapping[str, Any], steps: list[Operation]
) -> tuple[list[Operation], tuple[str, ...]]:
    """Leave out what is ignored; refuse changes of the type, and options that do not exist."""
    ignored = _IGNORED_BY_MIRRORS if kind == "mirror" else {}
    if any(s.key == "type" and (s.operator, s.value) != (Operator.SET, kind) for s in steps):
        raise InvalidRequest("the 'type' of an index can't be changed")
    notes = dict.fromkeys(ignored[step.key] for step in steps if step.key in ignored)
    steps = [s for s in steps if s.key not in ignored and s.key not in ("type", "projects")]
    unknown = {
        step.key
        for step in steps
        if step.key not in _CHECKS[kind]
        # What an import brought along can be changed and dropped, but not set.
        and (step.operator is Operator.SET or step.key not in values)
    }
    if unknown:
        names = ", ".join(sorted(unknown))
        raise InvalidRequest(f"indexconfig got unexpected keyword arguments: {names}")
    return steps, tuple(notes)


def _set(step: Operation, by: Check, values: dict[str, Any], secrets: dict[str, str]) -> None:
    checked = by(step.key, step.value)
    secret = _SECRET_OF.get(step.key)
    if step.key == secret:
        secrets[secret] = checked
    elif secret is not None:
        before = values.get(step.key)
        values[step.key], credentials = checked
        if values[step.key] != before:
            secrets.pop(secret, None)
        if credentials is not None:
            secrets[secret] = credentials
    else:
        values[step.key] = checked


def _drop(key: str, values: dict[str, Any], secrets: dict[str, str]) -> None:
    if key in _own("stage"):
        raise InvalidRequest("Default values can't be removed.")
    values.pop(key, None)
    if key in _SECRET_OF:
        secrets.pop(_SECRET_OF[key], None)


def index_from_options(
    name: IndexName, kind: str, options: Mapping[str, Any], secrets: str | None = None
) -> Index:
    """Make an index of options as the log holds them; what an old entry lacks has its default.

    `secrets` is the sha256 of the blob with the index's secrets.
    """
    own = _own(kind)
    known: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in options.items() if k in own
    }
    rest = {k: v for k, v in options.items() if k not in own}
    return _CLASSES[kind](name=name, options=rest, secrets=secrets, **known)


def kind_of(index: Index) -> str:
    """devpi's word for an index's type: ``stage`` or ``mirror``."""
    return "mirror" if isinstance(index, MirrorIndex) else "stage"


def to_options(index: Index) -> dict[str, Any]:
    """An index's options as the log holds them: checked, complete, without secrets."""
    values = {key: getattr(index, key) for key in sorted(_own(kind_of(index)))}
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v is not None}
    return {**plain, **index.options}


def shown_options(index: Index) -> dict[str, Any]:
    """An index's options as ``GET /<user>/<index>`` shows them: devpi's, and ours beside them."""
    defaults = to_options(index_from_options(index.name, kind_of(index), {}))
    return {
        key: value
        for key, value in to_options(index).items()
        if key not in _SHOWN_IF_SET or value != defaults[key]
    }


def missing_bases(index: Index, exists: Callable[[IndexName], bool]) -> list[IndexName]:
    """The bases that do not exist, each once; they must when they are set, not later."""
    bases: Iterable[IndexName] = index.bases if isinstance(index, HostedIndex) else ()
    return [base for base in dict.fromkeys(bases) if not exists(base)]


def require_bases(index: Index, exists: Callable[[IndexName], bool]) -> None:
    """Raises InvalidRequest that names every base that does not exist, as devpi does."""
    missing = missing_bases(index, exists)
    if missing:
        raise InvalidRequest(", ".join(f"base index {base!r} does not exist" for base in missing))
