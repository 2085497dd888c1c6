"""What stands beside a pointer: compared and set like it, whose it is, and what is counted of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feilun.accounts import tenants
from feilun.errors import AccessError, ConflictError, SettingError
from feilun.pipeline.kinds import Release
from feilun.store import releases, rollouts
from feilun.store.artifacts import ArtifactStore
from feilun.store.database import Database
from feilun.store.rollouts import Agreement, Rollout


@pytest.fixture
def made(database: Database, tmp_path: Path) -> list[Release]:
    """Three releases of ``reviews``; the first one is promoted."""
    store = ArtifactStore(tmp_path / "store", database)
    made = []
    for n in range(3):
        (tmp_path / f"r{n}").mkdir()
        (tmp_path / f"r{n}" / "release.json").write_text(str(n))
        made.append(store.add(Release, tmp_path / f"r{n}", parents=[], facts={"name": "reviews"}))
        releases.register(database, made[-1])
    releases.promote(database, "reviews", made[0].digest, expected_version=0, reason="first")
    return made


def canary(database: Database, release: Release | None, version: int, share: int = 500) -> Rollout:
    digest = None if release is None else release.digest
    return rollouts.change(database, "canary", "reviews", digest, share=share, expected_version=version, reason="test")


def test_a_canary_moves_only_from_the_version_that_was_seen(database: Database, made: list[Release]) -> None:
    assert rollouts.find(database, "canary", "reviews") is None
    assert canary(database, made[1], 0).version == 1
    for wrong in (0, 2):
        with pytest.raises(ConflictError, match="somebody else"):
            canary(database, made[2], wrong)
    wider = canary(database, made[2], 1, 900)
    assert rollouts.current(database) == [wider]
    assert canary(database, None, 2, 0).release is None
    assert rollouts.current(database) == []
    assert canary(database, made[1], 3).version == 4
    assert [(c.release, c.share, c.version) for c in rollouts.history(database, "reviews")] == [
        (made[1].digest, 500, 1),
        (made[2].digest, 900, 2),
        (None, 0, 3),
        (made[1].digest, 500, 4),
    ]


@pytest.mark.parametrize("version", [0, 1])
def test_of_many_at_once_one_changes_the_canary(database: Database, made: list[Release], version: int) -> None:
    if version:
        canary(database, made[1], 0)

    def attempt(n: int) -> bool:
        with Database(database.url) as own:
            try:
                canary(own, made[n % 3], version)
            except ConflictError:
                return False
            return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(attempt, range(6))) == 1
    assert rollouts.version_of(database, "canary", "reviews") == version + 1


def test_a_canary_that_could_answer_nobody_is_refused(database: Database, made: list[Release]) -> None:
    with pytest.raises(SettingError, match="answer nobody"):
        canary(database, made[1], 0, 0)
    with pytest.raises(AccessError, match="no tenant 'nobody'"):
        rollouts.change(
            database, "canary", "reviews", made[1].digest, tenants=["nobody"], expected_version=0, reason="x"
        )
    for name, digest in (("films", made[1].digest), ("reviews", "0" * 64)):
        with pytest.raises(AccessError):
            rollouts.change(database, "shadow", name, digest, share=1, expected_version=0, reason="x")
    for share in (-0.1, 1.1, 0.00001, float("nan")):
        with pytest.raises(SettingError):
            rollouts.share_of(share)


def test_a_retired_release_is_neither_found_nor_promoted_nor_gone_back_to(
    database: Database, made: list[Release]
) -> None:
    for n, release in enumerate(made[1:], start=1):
        releases.promote(database, "reviews", release.digest, expected_version=n, reason="next")
    with pytest.raises(ConflictError, match="stands for that release now"):
        releases.retire(database, "reviews", made[2].digest)
    assert releases.retire(database, "reviews", made[1].digest).retired_at is not None
    assert releases.find(database, "reviews", made[1].digest[:12]) is None
    with pytest.raises(AccessError, match="not a release"):
        releases.promote(database, "reviews", made[1].digest, expected_version=3, reason="again")
    assert releases.rollback(database, "reviews").release == made[0].digest


def test_a_name_is_one_tenants_or_everybodys(database: Database, made: list[Release], tmp_path: Path) -> None:
    for tenant in ("acme", "globex"):
        tenants.create(database, tenant, plan="any")
    store, mine = ArtifactStore(tmp_path / "store", database), []
    for n in range(2):
        (tmp_path / f"mine{n}").mkdir()
        (tmp_path / f"mine{n}" / "release.json").write_text(f"mine {n}")
        mine.append(store.add(Release, tmp_path / f"mine{n}", parents=[], facts={"name": "own"}))
    releases.register(database, mine[0], tenant="acme")
    for tenant in (None, "globex"):
        with pytest.raises(ConflictError, match="somebody else's"):
            releases.register(database, mine[1], tenant=tenant)
        with pytest.raises(ConflictError, match="somebody else's"):
            releases.register(database, mine[0], tenant=tenant)
    releases.register(database, mine[1], tenant="acme")
    assert [(r.name, r.tenant) for r in releases.known(database, "own")] == [("own", "acme")] * 2
    with pytest.raises(ConflictError):
        releases.register(database, mine[0], "reviews", tenant="acme")


def test_agreements_are_added_up_by_whoever_compared(database: Database, made: list[Release]) -> None:
    one = Agreement("reviews", made[0].digest, made[1].digest, 3, 2, release_ns=10, shadow_ns=20, furthest=0.25)
    for _ in range(2):
        database.write(
            lambda c: rollouts.count(c, [one, Agreement("reviews", made[0].digest, made[2].digest, failed=1)])
        )
    database.write(lambda c: rollouts.count(c, [Agreement("reviews", made[0].digest, made[1].digest, furthest=0.1)]))
    found = {a.shadow: a for a in rollouts.agreements(database, "reviews")}
    assert found[made[1].digest] == one.plus(one)
    assert (found[made[2].digest].failed, found[made[2].digest].compared) == (2, 0)
    assert rollouts.agreements(database, "films") == []


@given(st.integers(1, 9_999), st.sampled_from(["tenant", "request"]))
def test_a_share_takes_about_its_share_and_the_same_ones_each_time(share: int, sticky: str) -> None:
    rollout = Rollout("reviews", "canary", "a" * 64, share, sticky, frozenset(), 1)
    asked = [(f"tenant-{n}", f"request-{n}") for n in range(400)]
    taken = [rollout.takes(*one) for one in asked]
    assert taken == [rollout.takes(*one) for one in asked]
    assert abs(sum(taken) / 400 - share / 10_000) < 0.13  # five standard deviations at the widest
    if sticky == "tenant":
        assert len({rollout.takes("acme", f"{n}") for n in range(50)}) == 1
    wider = Rollout("reviews", "canary", "a" * 64, min(10_000, share + 100), sticky, frozenset(), 2)
    assert all(wider.takes(*one) for one, was in zip(asked, taken, strict=True) if was)  # who had it keeps it
