"""Another release takes over while requests run, or cannot (RELIABILITY 38, 39)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import select

from faults.checks import wrong_answers
from faults.house import ask, damage, gateway, make_release, open_house
from faults.load import Clients, broken_invariants, until
from feilun.store import releases, tables


def test_no_answer_comes_from_the_wrong_model_while_releases_are_swapped_case_38(
    new_url: Callable[[str], str], tmp_path: Path
) -> None:
    with open_house(new_url("sqlite"), tmp_path) as house, gateway(house) as running:
        other = make_release(house.store, tmp_path, 2)
        clients = Clients([running.base], [house.tokens["acme"]])
        with clients.at_work(6, seed=2):
            for version, release in enumerate([other, house.release] * 2, start=1):
                releases.promote(house.database, "reviews", release.digest, expected_version=version, reason="swap")
                until(lambda digest=release.digest: bool(clients.answers) and clients.answers[-1]["release"] == digest)
        assert clients.lost == 0
        assert not clients.refused
        assert {a["release"] for a in clients.answers} == {house.release.digest, other.digest}
        assert wrong_answers(house, clients.answers) == []
        assert broken_invariants(house.database, clients.answers) == []
        with house.database.read() as connection:
            rows = connection.execute(select(tables.usage.c.request, tables.usage.c.release)).all()
            assert {row.request: row.release for row in rows} == {a["id"]: a["release"] for a in clients.answers}


def test_a_release_that_cannot_be_loaded_leaves_the_old_one_serving_case_39(
    new_url: Callable[[str], str], tmp_path: Path
) -> None:
    with open_house(new_url("sqlite"), tmp_path) as house, gateway(house) as running:
        token, version = house.tokens["acme"], 1

        def spoil_weights(folder: Path) -> None:
            damage(folder / "model.bin")

        def remove_tokenizer(folder: Path) -> None:
            (folder / "tokenizer.json").unlink()

        for seed, spoil in enumerate((spoil_weights, remove_tokenizer, shutil.rmtree), start=10):
            bad = make_release(house.store, tmp_path, seed)
            spoil(house.store.get(bad.parents[0]).path)
            releases.promote(house.database, "reviews", bad.digest, expected_version=version, reason="bad")
            version += 1
            until(lambda digest=bad.digest: digest in running.log.read_text())
            assert ask(running, token).json()["release"] == house.release.digest
            said = next(line for line in running.log.read_text().splitlines() if bad.digest in line)
            assert json.loads(said)["event"] == "release-not-loaded"
        releases.rollback(house.database, "reviews")
        assert ask(running, token).status_code == 200


def test_a_release_whose_probes_are_another_models_is_refused_case_39(
    new_url: Callable[[str], str], tmp_path: Path
) -> None:
    """Every hash is right, but the release says what another model answered."""
    from feilun.pipeline.kinds import Release

    with open_house(new_url("sqlite"), tmp_path) as house, gateway(house) as running:
        other = make_release(house.store, tmp_path, 2)
        said = json.loads((other.path / "release.json").read_bytes())
        said["probes"] = json.loads((house.release.path / "release.json").read_bytes())["probes"]
        forged = tmp_path / "forged"
        forged.mkdir()
        (forged / "release.json").write_text(json.dumps(said))
        release = house.store.add(Release, forged, parents=other.parents, facts={"name": "reviews"})
        releases.register(house.database, release)
        releases.promote(house.database, "reviews", release.digest, expected_version=1, reason="forged")
        until(lambda: release.digest in running.log.read_text())
        assert "answers its probes otherwise" in running.log.read_text()
        assert ask(running, house.tokens["acme"]).json()["release"] == house.release.digest
