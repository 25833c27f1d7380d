"""The judge of histories finds what is wrong, and nothing in what is right."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from attrs import define, evolve, field

from tests.history import RULES, Action, Finding, Log, Logged, Operation, Outcome, judge


@define
class Simulated:
    """A good history, made by a seed: two sessions upload and read at two honest nodes."""

    chance: random.Random
    operations: list[Operation] = field(factory=list)
    entries: list[Logged] = field(factory=list)
    now: float = 0.0

    def run(self, steps: int) -> Simulated:
        seen = {"one": 0, "two": 0}
        for number in range(steps):
            session = self.chance.choice(sorted(seen))
            self.now += 1.0
            step = self.chance.choice((self._upload, self._upload, self._remove, self._download,
                                       self._read, self._read))  # fmt: skip
            one = step(session, number, seen[session])
            if one.outcome is Outcome.OK and one.serial is not None:
                seen[session] = one.serial
            self.operations.append(one)
        return self

    def _upload(self, session: str, number: int, least: int) -> Operation:
        outcome = self._outcome()
        one = Operation(
            session, f"p{number % 3}", self.now, f"f{number}.whl", f"digest-{number}",
            ended=self.now + 0.5, outcome=outcome,
        )  # fmt: skip
        self._store(one, one.sha256)
        return one

    def _outcome(self) -> Outcome:
        return self.chance.choice([Outcome.OK, Outcome.OK, Outcome.REFUSED, Outcome.UNKNOWN])

    def _store(self, one: Operation, sha256: str | None) -> None:
        """Log a write, unless it was refused or lost on its way."""
        lost = one.outcome is Outcome.UNKNOWN and self.chance.random() < 0.5
        if one.outcome is not Outcome.REFUSED and not lost:
            self.entries.append(
                Logged(self.size + 2, one.project, one.filename or "", sha256, one.action)
            )
        if one.outcome is Outcome.OK:
            one.serial = self.size

    def _remove(self, session: str, number: int, least: int) -> Operation:
        """Delete or yank a file that stands, if it is not yanked yet."""
        there = [
            (project, name, said)
            for project in ("p0", "p1", "p2")
            for name, said in self.log.files_at(project, self.size).items()
            if not said.endswith("yanked")
        ]
        if not there:
            return self._upload(session, number, least)
        project, name, digest = self.chance.choice(there)
        action = self.chance.choice((Action.DELETE, Action.YANK))
        one = Operation(
            session, project, self.now, name, ended=self.now + 0.5, outcome=self._outcome(),
            action=action,
        )  # fmt: skip
        self._store(one, None if action is Action.DELETE else digest)
        return one

    def _download(self, session: str, number: int, least: int) -> Operation:
        """Get some file that was uploaded once, or hear that it is gone."""
        if not self.entries:
            return self._upload(session, number, least)
        entry = self.chance.choice([e for e in self.entries if e.action is Action.UPLOAD])
        stands = entry.filename in self.log.files_at(entry.project, self.size)
        return Operation(
            session, entry.project, self.now, entry.filename, entry.sha256 if stands else None,
            ended=self.now + 0.5, outcome=Outcome.OK, action=Action.DOWNLOAD,
        )  # fmt: skip

    def _read(self, session: str, number: int, least: int) -> Operation:
        # A node may be behind, but never behind what the session saw.
        serial = self.chance.randint(least, max(least, self.size))
        project = f"p{self.chance.randrange(3)}"
        files = self.log.files_at(project, serial)
        return Operation(
            session, project, self.now, ended=self.now + 0.5, outcome=Outcome.OK, serial=serial,
            files=files, minimum=least,
        )  # fmt: skip

    @property
    def size(self) -> int:
        return self.entries[-1].serial if self.entries else 0

    @property
    def log(self) -> Log:
        return Log(self.entries, self.size)

    def judged(self, *orphaned: Log, roots: tuple[str, ...] = ("r", "r")) -> set[str]:
        return {f.rule for f in judge(self.operations, [self.log, *orphaned], roots)}

    def pick(self, wanted: Callable[[Operation], bool]) -> Operation:
        return self.chance.choice([o for o in self.operations if wanted(o)])


def is_acked(one: Operation) -> bool:
    return one.action is Action.UPLOAD and one.outcome is Outcome.OK


def swap_serials(one: Simulated) -> None:
    first, *_, last = [o for o in one.operations if is_acked(o)]
    for entry in (first, last):
        at = next(i for i, e in enumerate(one.entries) if e.filename == entry.filename)
        other = last if entry is first else first
        one.entries[at] = evolve(one.entries[at], serial=other.serial or 0)
    first.serial, last.serial = last.serial, first.serial
    one.entries.sort(key=lambda e: e.serial)


def lose_one(one: Simulated) -> None:
    lost = one.pick(is_acked).filename
    one.entries = [e for e in one.entries if e.filename != lost]


def change_bytes(one: Simulated) -> None:
    name = one.pick(is_acked).filename
    one.entries = [
        evolve(e, sha256="other") if e.filename == name and e.action is Action.UPLOAD else e
        for e in one.entries
    ]


def lose_delete(one: Simulated) -> None:
    lose_removal(one, Action.DELETE)


def lose_yank(one: Simulated) -> None:
    lose_removal(one, Action.YANK)


def lose_removal(one: Simulated, action: Action) -> None:
    lost = one.pick(lambda o: o.action is action and o.outcome is Outcome.OK)
    one.entries = [e for e in one.entries if (e.filename, e.action) != (lost.filename, action)]


def delete_nothing(one: Simulated) -> None:
    """A delete that finds the file gone, which stands."""
    name = one.chance.choice(sorted(standing(one)))
    one.operations.append(
        Operation("three", "p0", one.now + 1, name, ended=one.now + 2, outcome=Outcome.OK,
                  changed=False, action=Action.DELETE)
    )  # fmt: skip


def standing(one: Simulated) -> set[str]:
    return {name for n in range(3) for name in one.log.files_at(f"p{n}", one.size)}


def forget_yank(one: Simulated) -> None:
    seen = one.pick(lambda o: any(said.endswith("yanked") for said in (o.files or {}).values()))
    seen.files = {name: said.split(" ")[0] for name, said in (seen.files or {}).items()}


def rotten_download(one: Simulated) -> None:
    one.pick(lambda o: o.action is Action.DOWNLOAD and o.sha256 is not None).sha256 = "rotten"


def vanished_download(one: Simulated) -> None:
    there = standing(one)
    one.pick(lambda o: o.action is Action.DOWNLOAD and o.filename in there).sha256 = None


def store_acked_twice(one: Simulated) -> None:
    entry = one.chance.choice(one.entries)
    one.entries.append(evolve(entry, serial=one.size + 1))


def store_refused_otherwise(one: Simulated) -> None:
    refused = one.pick(lambda o: o.outcome is Outcome.REFUSED)
    one.entries.append(Logged(one.size + 1, refused.project, refused.filename or "", "garbage"))


def stale_page(one: Simulated) -> None:
    seen = one.pick(lambda o: bool(o.files))
    seen.files = dict(list((seen.files or {}).items())[:-1])


def invented_file(one: Simulated) -> None:
    seen = one.pick(lambda o: o.files is not None)
    seen.files = {**(seen.files or {}), "never-sent.whl": "digest"}


def step_back(one: Simulated) -> None:
    seen = [o for o in one.operations if o.session == "one" and is_acked(o)][-1]
    one.operations.append(
        Operation(
            "one",
            "p9",
            one.now + 1,
            ended=one.now + 2,
            outcome=Outcome.OK,
            serial=(seen.serial or 0) - 1,
            files={},
        )
    )


def below_minimum(one: Simulated) -> None:
    seen = one.pick(lambda o: o.files is not None and o.outcome is Outcome.OK)
    seen.minimum = (seen.serial or 0) + 1


BREAKERS: list[tuple[Callable[[Simulated], None], str]] = [
    (swap_serials, "order"), (lose_one, "lost"), (change_bytes, "lost"),
    (store_acked_twice, "twice"), (store_refused_otherwise, "twice"), (stale_page, "page"),
    (invented_file, "page"), (step_back, "back"), (below_minimum, "back"),
    (lose_delete, "lost"), (lose_yank, "lost"), (delete_nothing, "lost"), (forget_yank, "page"),
    (rotten_download, "bytes"), (vanished_download, "bytes"),
]  # fmt: skip
SEEDS = range(25)


def simulated(seed: int) -> Simulated:
    return Simulated(random.Random(seed)).run(160)


@pytest.mark.parametrize("seed", SEEDS)
def test_good_history(seed: int) -> None:
    """Nothing is found in what an honest cluster answers, whatever got lost on the way."""
    one = simulated(seed)
    assert len(one.entries) > 10
    assert one.judged() == set()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("broken", "rule"), BREAKERS, ids=lambda b: getattr(b, "__name__", b))
def test_bad_history(seed: int, broken: Callable[[Simulated], None], rule: str) -> None:
    """Whatever is broken in a good history is found, under the name of its rule."""
    one = simulated(seed)
    broken(one)
    assert rule in one.judged()


def test_different_ends() -> None:
    """Nodes that end with different logs are found."""
    assert simulated(0).judged(roots=("a", "a", "b")) == {"roots"}
    assert {rule for _, rule in BREAKERS} | {"roots"} == set(RULES)


def test_orphaned_upload() -> None:
    """An upload that was taken back is no loss if it is kept in a file and no replica was
    promised, and a loss otherwise."""
    one = simulated(1)
    lost = [o for o in one.operations if is_acked(o)][-1]
    assert lost.serial is not None
    whole, fork = list(one.entries), lost.serial
    one.operations = [o for o in one.operations if (o.serial or 0) <= fork]
    one.entries = [e for e in whole if e.serial < fork]
    assert "lost" in one.judged()
    orphaned = Log(whole, whole[-1].serial, fork)
    assert one.judged(orphaned) == set()
    lost.level = 1
    assert one.judged(orphaned) == {"lost"}


def test_taken_back_once() -> None:
    """A session may go back behind entries that were taken back, once, and not further."""
    log, orphaned = Log([], 4), Log([], 9, fork=4)

    def seen(*serials: int) -> list[Finding]:
        steps = [
            Operation("one", "p", float(at), ended=at + 0.5, outcome=Outcome.OK, serial=serial)
            for at, serial in enumerate(serials)
        ]
        return judge(steps, [log, orphaned])

    assert seen(3, 9, 3, 4) == []
    assert [f.rule for f in seen(3, 9, 2)] == ["back"]
    assert [f.rule for f in seen(9, 3, 9, 3)] == ["back"]
