"""The judge of histories finds what is wrong, and nothing in what is right."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from attrs import define, evolve, field

from tests.history import RULES, Finding, Log, Logged, Operation, Outcome, judge


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
            upload = self.chance.random() < 0.5
            one = self._upload(session, number) if upload else self._read(session, seen[session])
            if one.outcome is Outcome.OK:
                seen[session] = one.serial or 0
            self.operations.append(one)
        return self

    def _upload(self, session: str, number: int) -> Operation:
        outcome = self.chance.choice([Outcome.OK, Outcome.OK, Outcome.REFUSED, Outcome.UNKNOWN])
        one = Operation(
            session, f"p{number % 3}", self.now, f"f{number}.whl", f"digest-{number}",
            ended=self.now + 0.5, outcome=outcome,
        )  # fmt: skip
        stored = outcome is Outcome.OK or (
            outcome is Outcome.UNKNOWN and self.chance.random() < 0.5
        )
        if stored:
            self.entries.append(
                Logged(2 * len(self.entries) + 2, one.project, f"f{number}.whl", one.sha256)
            )
        if outcome is Outcome.OK:
            one.serial = self.entries[-1].serial
        return one

    def _read(self, session: str, least: int) -> Operation:
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
    return one.filename is not None and one.outcome is Outcome.OK


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
    one.entries = [evolve(e, sha256="other") if e.filename == name else e for e in one.entries]


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
]  # fmt: skip
SEEDS = range(25)


def simulated(seed: int) -> Simulated:
    return Simulated(random.Random(seed)).run(80)


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
