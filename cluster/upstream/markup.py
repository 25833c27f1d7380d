"""HTML pages of an upstream, read as the JSON document they would be (pure; PEP 503).

Covers per-project pages and flat pages (one page with links to files of many projects).
Links are returned with the keys of PEP 691, unchecked: `facts` judges both kinds alike.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urljoin, urlsplit

from attrs import Factory, define

from cluster.upstream.facts import MAX_LINKS, is_archive, too_many_files
from cluster.upstream.tags import Attributes, iter_tags

_SERIAL = re.compile(r"<!--\s{0,9}SERIAL\s{1,9}(\d{1,18})\s{0,9}-->", re.ASCII)
_DIGITS = re.compile(r"\d{1,18}", re.ASCII)


@define
class Markup:
    """What an HTML page says: its metas by name, its links as PEP 691 file objects.

    `has_form` tells a login page, which is no project page whatever its status code was.
    """

    files: list[dict[str, object]] = Factory(list)
    metas: dict[str, str] = Factory(dict)
    serial: int | None = None
    has_form: bool = False


def read_markup(text: str, url: str) -> Markup:
    """Read a page found at `url`; raises UpstreamError for more links than a page can have."""
    page = Markup()
    base: str | None = None
    anchors: list[tuple[str, Attributes]] = []
    for tag, attributes in iter_tags(text):
        if tag == "a":
            if href := (attributes.get("href") or "").strip():
                anchors.append((href, attributes))
        elif tag == "meta":
            name, content = attributes.get("name"), attributes.get("content")
            if name and content is not None:
                page.metas.setdefault(name.lower(), content)
        elif tag == "base":
            base = base or attributes.get("href")
        elif tag == "form":
            page.has_form = True
        if len(anchors) > MAX_LINKS:
            raise too_many_files(MAX_LINKS)
    base = _base(url, base)
    page.files.extend(file for anchor in anchors if (file := _link(*anchor, base)) is not None)
    serial = _SERIAL.search(text)
    page.serial = int(serial[1]) if serial else None
    return page


def _base(url: str, href: str | None) -> str:
    try:
        return urljoin(url, href.strip()) if href else url
    except ValueError:
        return url


def _link(href: str, attributes: Attributes, base: str) -> dict[str, object] | None:
    try:
        url = urljoin(base, href)
        parts = urlsplit(url)
        filename = unquote(parts.path.rpartition("/")[2], errors="strict")
    except ValueError:
        # Named only by its spelling: `facts` refuses it and it shows among the skipped.
        return {"filename": href, "url": href} if is_archive(href) else None
    if not is_archive(filename):
        return None
    size = (attributes.get("data-size") or "").strip()
    return {
        "filename": filename,
        "url": url,
        "hashes": _assignments(parts.fragment),
        "requires-python": attributes.get("data-requires-python"),
        "yanked": (attributes["data-yanked"] or True) if "data-yanked" in attributes else False,
        "core-metadata": _core_metadata(attributes),
        "provenance": attributes.get("data-provenance"),
        "upload-time": attributes.get("data-upload-time"),
        "size": int(size) if _DIGITS.fullmatch(size) else None,
    }


def _core_metadata(attributes: Attributes) -> dict[str, object]:
    for key in ("data-core-metadata", "data-dist-info-metadata"):
        if key in attributes:
            return _assignments(attributes[key] or "")
    return {}


def _assignments(text: str) -> dict[str, object]:
    """``sha256=…&egg=…`` as a mapping."""
    pairs = (part.partition("=") for part in text.split("&"))
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}
