"""One house and one gateway for the tests that leave both as they found them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from faults.house import House, Running, gateway, open_house
from tests.serve.talking import HASTY, Talking, open_talking


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    with open_house(f"sqlite:///{folder}/feilun.db", folder) as opened:
        yield opened


@pytest.fixture(scope="session")
def running(house: House) -> Iterator[Running]:
    with gateway(house) as started:
        yield started


@pytest.fixture(scope="session")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talking]:
    """A house of models that write, embed and flag."""
    folder = tmp_path_factory.mktemp("talking")
    with open_talking(f"sqlite:///{folder}/feilun.db", folder, **HASTY) as opened:
        yield opened
