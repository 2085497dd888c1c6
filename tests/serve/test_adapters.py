"""Many models on one base, behind the gateway (RELIABILITY 38)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from faults import adapters
from faults.house import ask, gateway, open_house
from faults.load import broken_invariants, until
from feilun.store import releases


def test_no_answer_is_another_models_while_many_share_a_base_and_are_swapped_and_evicted_case_38(
    new_url: Callable[[str], str], tmp_path: Path
) -> None:
    with open_house(new_url("sqlite"), tmp_path) as house:
        street = adapters.build_street(house, 9)
        room = adapters.room_for(street, 2)
        with gateway(house, adapter_bytes=room) as running:
            wrong, answers = adapters.wrong_answers(house, running, street, 150, seed=1)
        assert wrong == []
        assert answers >= 150
        assert broken_invariants(house.database, [], all_delivered=False) == []


def test_rows_of_many_models_share_a_run_and_each_is_told_its_own_release(
    new_url: Callable[[str], str], tmp_path: Path
) -> None:
    with open_house(new_url("sqlite"), tmp_path) as house:
        street = adapters.build_street(house, 3)
        with gateway(house) as running:
            for name in street.names:
                said = ask(running, house.tokens["acme"], ["good film", "bad plot"], model=name).json()
                assert said["model"].startswith(f"{name}@")
                assert not street.is_wrong(said, ["good film", "bad plot"], name)
            assert ask(running, house.tokens["acme"]).json()["release"] == house.release.digest


def test_an_adapter_that_cannot_be_loaded_leaves_the_old_release_and_its_neighbours_case_39(
    new_url: Callable[[str], str], tmp_path: Path
) -> None:
    with open_house(new_url("sqlite"), tmp_path) as house:
        street = adapters.build_street(house, 2)
        with gateway(house) as running:
            old, new = street.pairs["model-1"]
            model = house.store.get(new.parents[0])
            (model.path / "adapter" / "adapter_model.safetensors").unlink()
            street.swap(house, "model-1")
            until(lambda: new.digest in running.log.read_text())
            token = house.tokens["acme"]
            assert ask(running, token, model="model-1").json()["release"] == old.digest
            assert ask(running, token, model="model-0").status_code == 200
        releases.rollback(house.database, "model-1")
