from __future__ import annotations

import json
from pathlib import Path

import pytest

from feilun.bill.settings import BillSettings
from feilun.store.artifacts import ArtifactStore
from feilun.store.database import Database
from tests.bill.books import Books


@pytest.fixture
def books(database: Database) -> Books:
    return Books(database)


@pytest.fixture
def store(database: Database, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts", database)


@pytest.fixture(scope="session")
def settings() -> BillSettings:
    return BillSettings.model_validate(
        json.loads("""{"core_hour": "0.05 USD", "plans": {
            "starter": {"monthly": "19.00 USD", "included": {"requests": 3}, "overage": {"requests": "0.0008 USD"}},
            "tokens": {"overage": {"inputs": "0.001 USD", "tokens": "0.000001234 USD"}, "included": {"tokens": 25}},
            "free": {}}}""")
    )
