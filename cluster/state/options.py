"""Index options: from what people send to checked values, and back (pure; devpi-api §4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from cluster.errors import InvalidRequest
from cluster.model import HostedIndex, Index, MirrorIndex
from cluster.names import IndexName, index_name, normalize

_HOSTED: Final = {
    "bases", "acl_upload", "volatile", "mirror_whitelist", "mirror_whitelist_inheritance",
}  # fmt: skip
_MIRROR: Final = {"mirror_url", "volatile", "mirror_cache_expiry", "max_stale"}
_FREE_TEXT: Final = {"title", "description", "custom_data"}
_MIRROR_EXTRA: Final = {"mirror_web_url_fmt", "mirror_use_external_urls", "mirror_no_project_list"}
# devpi discards these silently when they are given to a mirror.
_DISCARDED_BY_MIRRORS: Final = {"bases", "acl_upload", "mirror_whitelist", "pypi_whitelist"}
_IGNORED: Final = {"projects", "type"}
_MAX_SECONDS: Final = 2**53  # beyond it JSON readers disagree about integers


def parse_options(name: IndexName, given: Mapping[str, Any]) -> Index:
    """Check the JSON body of ``PUT /<user>/<index>`` and make the index; raises InvalidRequest."""
    kind = given.get("type", "stage")
    if kind not in ("stage", "mirror"):
        raise InvalidRequest(f"unknown index type {kind!r}: use 'stage' or 'mirror'")
    known = _FREE_TEXT | _IGNORED
    known |= _HOSTED if kind == "stage" else _MIRROR | _MIRROR_EXTRA | _DISCARDED_BY_MIRRORS
    unknown = sorted(given.keys() - known)
    if unknown:
        raise InvalidRequest("indexconfig got unexpected keyword arguments: " + ", ".join(unknown))
    checked = {key: _CHECK.get(key, _any)(key, value) for key, value in given.items()}
    if kind == "mirror":
        if not checked.get("mirror_url"):
            raise InvalidRequest("a mirror index needs mirror_url, the upstream's simple API")
        checked = {k: v for k, v in checked.items() if k not in _DISCARDED_BY_MIRRORS}
    else:
        checked.setdefault("acl_upload", [name.partition("/")[0]])
    return index_from_options(name, kind, {k: v for k, v in checked.items() if k not in _IGNORED})


def index_from_options(name: IndexName, kind: str, options: Mapping[str, Any]) -> Index:
    """Make an index of options as the log holds them (checked, complete)."""
    own = _MIRROR if kind == "mirror" else _HOSTED
    fields: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in options.items() if k in own
    }
    rest = {k: v for k, v in options.items() if k not in own}
    if kind == "mirror":
        return MirrorIndex(name=name, options=rest, **fields)
    return HostedIndex(name=name, options=rest, **fields)


def kind_of(index: Index) -> str:
    """devpi's word for an index's type: ``stage`` or ``mirror``."""
    return "mirror" if isinstance(index, MirrorIndex) else "stage"


def to_options(index: Index) -> dict[str, Any]:
    """An index's options as the log holds them and as ``GET /<user>/<index>`` shows them."""
    own = sorted(_MIRROR if isinstance(index, MirrorIndex) else _HOSTED)
    values = {key: getattr(index, key) for key in own}
    shown = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
    return {**shown, **index.options}


def _any(key: str, value: Any) -> Any:
    return value


def _bool(key: str, value: Any) -> bool:
    words = {"true": True, "yes": True, "false": False, "no": False}
    known = value if isinstance(value, bool) else words.get(str(value).lower())
    if known is None:
        raise InvalidRequest(f"{key} must be true or false, not {value!r}")
    return bool(known)


def _list(key: str, value: Any) -> list[str]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise InvalidRequest(f"{key} must be a list or a text with commas, not {value!r}")
    return [part.strip() for part in parts if part.strip()]


def _bases(key: str, value: Any) -> list[str]:
    bases = []
    for base in _list(key, value):
        user, slash, index = base.strip("/").partition("/")
        if not slash:
            raise InvalidRequest(f"invalid base index spec: {base!r}")
        bases.append(index_name(user, index))
    return list(bases)


def _acl(key: str, value: Any) -> list[str]:
    special = {":anonymous:", ":authenticated:"}
    return [n.upper() if n.lower() in special else n for n in _list(key, value)]


def _whitelist(key: str, value: Any) -> list[str]:
    return [name if name == "*" else normalize(name) for name in _list(key, value)]


def _seconds(key: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = -1
    if not 0 <= number <= _MAX_SECONDS or isinstance(value, bool):
        raise InvalidRequest(f"{key} must be a number of seconds, not {value!r}")
    return number


def _url(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.startswith(("http://", "https://")):
        raise InvalidRequest(f"{key} must start with http:// or https://, not {value!r}")
    try:
        parts = urlsplit(value)
    except ValueError:
        parts = urlsplit("")
    if not parts.hostname or not value.isprintable():
        raise InvalidRequest(f"{key} must be a URL with a host, not {value!r}")
    if "@" in parts.netloc:
        # The log is for ever, and every node has it: no password may get into it.
        raise InvalidRequest(f"{key} must not hold a user or password: it would be in the log")
    return value


def _inheritance(key: str, value: Any) -> str:
    if value not in ("intersection", "union"):
        raise InvalidRequest(f"{key} must be 'intersection' or 'union', not {value!r}")
    return str(value)


_CHECK: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "bases": _bases,
    "acl_upload": _acl,
    "volatile": _bool,
    "mirror_whitelist": _whitelist,
    "mirror_whitelist_inheritance": _inheritance,
    "mirror_url": _url,
    "mirror_cache_expiry": _seconds,
    "max_stale": _seconds,
    "mirror_use_external_urls": _bool,
    "mirror_no_project_list": _bool,
}
