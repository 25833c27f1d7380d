"""How far the other nodes are, for who is about to be promoted: what would be lost by it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import click
from attrs import define, field, frozen

from cluster.cli.asking import NodeAnswers
from cluster.cli.histories import Histories
from cluster.errors import LogError
from cluster.promotion import NotPossible, Standing

_AT_ONCE: Final = 16


@frozen
class Place:
    """What a node says of itself; `epoch` and `serial` are None when it gives no answer.

    `lost` entries of it would be lost; `doubt` says why that is only what the serials tell.
    """

    url: str
    role: str = "node"
    uuid: str = ""
    log: str = ""
    epoch: int | None = None
    serial: int | None = None
    lost: int = 0
    doubt: str = ""


@define
class Others:
    """The primary so far (`former`: where it may be) and all other nodes that are known.

    `primaries` are URLs of those that said, when they were looked at, that they own this log.
    """

    _asked: NodeAnswers
    _histories: Histories
    _own: str
    former: list[str]
    known: list[str]
    primaries: list[str] = field(factory=list, init=False)

    @property
    def _mine(self) -> Standing:
        return self._histories.mine

    def look(self) -> Place | None:
        """Ask everybody, say what would be lost, and return who has most that would be.

        Raises NotPossible when a node has heard of a promotion that this one has not.
        """
        if not self.former:
            click.echo("no primary so far is known: give --former, or nobody can be compared")
        places = self._ask([*self.former, *self.known])
        self.primaries = [
            one.url for one in places if one.role == "primary" and one.log == self._mine.log
        ]
        return self._furthest(places, shown_from=0)

    def look_again(self, urls: Sequence[str], least: int) -> Place | None:
        """The same, of some nodes alone; only what is more than `least` is said and returned."""
        found = self._furthest(self._ask(urls), shown_from=least + 1)
        return found if found is not None and found.lost > least else None

    def _furthest(self, places: Sequence[Place], shown_from: int) -> Place | None:
        mine = self._mine
        for one in places:
            if one.log == mine.log and one.epoch is not None and one.epoch > mine.epoch:
                # An epoch has one owner: a second would sign another history under its number.
                raise NotPossible(
                    f"{one.url} is in epoch {one.epoch} already, this node in {mine.epoch}: let "
                    "this node follow it first, or promote one that has"
                )
            if shown_from <= one.lost:
                click.echo(self._line(one))
        further = [one for one in places if one.lost]
        return max(further, key=lambda one: one.lost) if further else None

    def _line(self, one: Place) -> str:
        mine = self._mine
        if one.serial is None:
            return f"{one.url} does not answer: what it has beyond {mine.serial} would be lost"
        if one.log != mine.log:
            return f"{one.url}: {one.role} of another log"
        doubt = f" if its log is ours ({one.doubt})" if one.doubt else ""
        return (
            f"{one.url}: {one.role}, serial {one.serial}; {one.lost} entries would be lost{doubt}"
        )

    def _ask(self, urls: Sequence[str]) -> list[Place]:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            places = list(pool.map(self._place, dict.fromkeys(urls)))
        # A node may have several URLs, and be known to itself.
        unique = {one.uuid or one.url: one for one in reversed(places)}
        return [one for one in places if unique.get(one.uuid or one.url) is one
                and one.uuid != self._own]  # fmt: skip

    def _place(self, url: str) -> Place:
        answer = self._asked.status(url)
        said = answer.values if answer.status == 200 else {}
        epoch, serial, identity = said.get("epoch"), said.get("serial"), said.get("log_identity")
        if not isinstance(epoch, int) or not isinstance(serial, int) or serial < 0:
            return Place(url)
        log = str(identity.get("log", "")) if isinstance(identity, dict) else ""
        lost, doubt = 0, ""
        if (log, epoch) == (self._mine.log, self._mine.epoch):
            try:
                lost = self._histories.lacking(url, serial, _root(said))
            except LogError as error:
                lost, doubt = max(0, serial - self._mine.serial), str(error)
        role, uuid = str(said.get("role")), str(said.get("uuid"))
        return Place(url, role, uuid, log, epoch, serial, lost, doubt)


def _root(said: Mapping[str, Any]) -> bytes | None:
    try:
        return base64.b64decode(said.get("root", ""))
    except (TypeError, ValueError):
        return None
