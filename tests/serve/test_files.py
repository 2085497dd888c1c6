"""/v1/files over a real gateway, by OpenAI's client: private, bounded, kept once, gone when they are deleted."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from sqlalchemy import func, select, update

from faults.house import HTTP, gateway, open_house
from feilun.serve.problems import RequestError
from feilun.serve.uploads import Bounds, Form, _Reading
from feilun.store import consents, files, tables
from tests.serve.uploading import Customer

LIMITS = {"file_bytes": 3_000_000, "file_lines": 50_000, "files_bytes": 8_000_000, "batch_poll_s": 0.1}


@pytest.fixture(scope="module")
def customers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Customer, Customer]]:
    folder = tmp_path_factory.mktemp("files")
    with open_house(f"sqlite:///{folder}/feilun.db", folder) as house, gateway(house, **LIMITS) as running:
        yield Customer(house, running, "anna"), Customer(house, running, "bert")


def test_a_file_is_uploaded_listed_read_and_deleted_by_the_official_client(customers: tuple[Customer, ...]) -> None:
    api = customers[0].api
    large = b"".join(b'{"text": "%036d"}\n' % n for n in range(25_000))[: 2**20 + 77].rpartition(b"\n")[0] + b"\n"
    made = api.files.create(
        file=("täglich.jsonl", large), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert (made.bytes, made.filename, made.purpose, made.status) == (len(large), "täglich.jsonl", "batch", "processed")
    assert made.expires_at == made.created_at + 3600
    small = [customers[0].upload([{"n": n}]) for n in range(3)]
    assert api.files.content(made.id).content == large
    assert api.files.retrieve(made.id) == made
    assert [file.id for file in api.files.list(limit=2, order="asc")] == [made.id, *small]
    assert [file.id for file in api.files.list(limit=1)] == [*small[::-1], made.id]
    assert list(api.files.list(purpose="fine-tune")) == []
    for file in (made.id, *small):
        assert api.files.delete(file).deleted
    assert list(api.files.list()) == []
    with pytest.raises(openai.NotFoundError):
        api.files.content(made.id)


def test_another_tenants_file_is_as_if_it_were_not_there_case_35(customers: tuple[Customer, ...]) -> None:
    anna, bert = customers
    hers = anna.upload([{"n": 1}])
    absent = "file-01ARZ3NDEKTSV4RRFFQ69G5FAV"
    batch = {"endpoint": "/v1/classify", "completion_window": "24h"}
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/v1/files/{}", {}),
        ("GET", "/v1/files/{}/content", {}),
        ("DELETE", "/v1/files/{}", {}),
    ]
    for method, path, more in asked:
        mine, nobodys = (bert.get(path.format(name), method=method, **more) for name in (hers, absent))
        assert mine.status_code == nobodys.status_code == 404
        assert mine.content == nobodys.content
    mine, nobodys = (
        bert.get("/v1/batches", method="POST", json=batch | {"input_file_id": name}) for name in (hers, absent)
    )
    assert mine.status_code == 404 and mine.content == nobodys.content
    assert anna.api.files.delete(hers).deleted


def test_a_key_without_the_scope_is_refused(customers: tuple[Customer, ...]) -> None:
    house = customers[0].house
    reply = HTTP.get(customers[0].base + "/v1/files", headers={"Authorization": f"Bearer {house.tokens['acme']}"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "wrong-scope")


def form(*parts: tuple[str, bytes], boundary: str = "b0") -> dict[str, Any]:
    body = b"".join(
        b"--b0\r\nContent-Disposition: form-data; " + said.encode() + b"\r\n\r\n" + raw + b"\r\n" for said, raw in parts
    )
    return {"content": body + b"--b0--\r\n", "headers": {"Content-Type": f"multipart/form-data; boundary={boundary}"}}


FILE, PURPOSE = ('name="file"; filename="a.jsonl"', b"{}\n"), ('name="purpose"', b"batch")


@pytest.mark.parametrize(
    ("sent", "status", "where"),
    [
        (form(FILE, PURPOSE, boundary="other"), 400, None),
        (form(FILE, PURPOSE) | {"headers": {"Content-Type": "application/json"}}, 415, None),
        (form(FILE, PURPOSE) | {"content": b"--b0\r\n"}, 400, None),
        (form(FILE, ("name", b"x")), 400, None),
        (form(FILE), 422, "purpose"),
        (form(FILE, ('name="purpose"', b"assistants")), 422, "purpose"),
        (form(PURPOSE), 422, "file"),
        (form(PURPOSE, PURPOSE, FILE), 422, "purpose"),
        (form(FILE, FILE, PURPOSE), 422, "file"),
        (form(FILE, PURPOSE, ('name="tenant"', b"bert")), 422, "tenant"),
        (form(FILE, PURPOSE, ('name="other"; filename="b.jsonl"', b"{}")), 422, "other"),
        (form(('name="file"; filename="a.bin"', b"{}"), PURPOSE), 422, "file"),
        (form(('name="file"; filename="../../.jsonl/.."', b"{}"), PURPOSE), 422, "file"),
        (form(('name="file"; filename="a\u0001.jsonl"', b"{}"), PURPOSE), 422, "file"),
        (form(('name="file"; filename="a.jsonl"', b""), PURPOSE), 422, "file"),
        (form(('name="file"; filename="a.jsonl"', b"\n\n"), PURPOSE), 422, "file"),
        (form(('name="file"; filename="a.jsonl"', b"\xff\xfe{}"), PURPOSE), 400, "file"),
        (form(('name="file"; filename="a.jsonl"', b"{}\n" * 50_001), PURPOSE), 413, "file"),
        (form(('name="file"; filename="a.jsonl"', b"x" * 3_000_001), PURPOSE), 413, None),
        (form(FILE, PURPOSE, ('name="expires_after[seconds]"', b"3600")), 422, "expires_after[anchor]"),
        (form(FILE, PURPOSE, *((f'name="n{n}"', b"") for n in range(20))), 400, None),
    ],
)
def test_a_bad_form_is_refused_and_nothing_is_kept_case_42(
    customers: tuple[Customer, ...], sent: dict[str, Any], status: int, where: str | None
) -> None:
    anna = customers[0]
    headers = anna.headers | sent["headers"]
    reply = HTTP.post(anna.base + "/v1/files", content=sent["content"], headers=headers)
    assert reply.status_code == status, reply.text
    assert reply.json()["error"]["where"] == where
    assert list(anna.api.files.list()) == []


def test_a_path_in_a_name_is_only_a_name_case_42(customers: tuple[Customer, ...]) -> None:
    anna = customers[0]
    sent = form(('name="file"; filename="..\\..\\etc/%2e%2e/rows.jsonl"', b"{}"), PURPOSE)
    reply = HTTP.post(anna.base + "/v1/files", content=sent["content"], headers=anna.headers | sent["headers"])
    assert (reply.status_code, reply.json()["filename"]) == (200, "rows.jsonl")
    anna.api.files.delete(reply.json()["id"])


def test_equal_files_are_kept_once_and_go_with_the_last_of_them(customers: tuple[Customer, ...]) -> None:
    anna, bert = customers
    same = [anna.upload([{"same": 1}]), anna.upload([{"same": 1}]), bert.upload([{"same": 1}])]

    def parts() -> int:
        with anna.house.database.read() as connection:
            return int(connection.execute(select(func.count()).select_from(tables.file_parts)).scalar_one())

    assert parts() == 2
    anna.api.files.delete(same[0])
    assert parts() == 2 and anna.read(same[1]) == [{"same": 1}]
    anna.api.files.delete(same[1])
    assert parts() == 1 and bert.read(same[2]) == [{"same": 1}]
    bert.api.files.delete(same[2])
    assert parts() == 0


def test_a_tenants_files_have_a_size_together(customers: tuple[Customer, ...]) -> None:
    anna = customers[0]
    kept = [anna.upload(b"%d" % n * 2_900_000) for n in range(2)]
    with pytest.raises(openai.RateLimitError) as refused:
        anna.upload(b"9" * 2_900_000)
    assert refused.value.code == "too-many-files"
    for file in kept:
        anna.api.files.delete(file)


def test_what_has_expired_is_gone_at_once_and_swept_later(customers: tuple[Customer, ...]) -> None:
    anna = customers[0]
    file, database = anna.upload([{"old": 1}]), anna.house.database
    table = tables.files
    database.write(lambda c: c.execute(update(table).where(table.c.id == file).values(expires_at=1)))
    assert anna.get(f"/v1/files/{file}").status_code == 404 and list(anna.api.files.list()) == []
    assert database.write(files.sweep) == 1
    with database.read() as connection:
        assert connection.execute(select(tables.file_parts.c.number)).all() == []


def test_a_file_for_fine_tuning_is_consent_to_learn_until_it_is_deleted(customers: tuple[Customer, ...]) -> None:
    anna = customers[0]

    def allowed() -> bool:
        with anna.house.database.read() as connection:
            return ("anna", file) in consents.in_force(connection, "learn")

    file = anna.upload([{"text": "fine", "label": "good"}], "fine-tune")
    assert allowed()
    anna.api.files.delete(file)
    assert not allowed()


def test_a_flipped_byte_ends_the_download_before_its_end(customers: tuple[Customer, ...]) -> None:
    anna = customers[0]
    file = anna.upload([{"n": n} for n in range(10)])
    table, database = tables.file_parts, anna.house.database
    database.write(lambda c: c.execute(update(table).values(body=b"{}" + b" " * 98)))
    with pytest.raises(openai.APIConnectionError):
        anna.api.files.content(file)
    anna.api.files.delete(file)


def test_a_form_is_read_alike_wherever_its_pieces_are_cut() -> None:
    content = b"{}\r\n--b\r\n--c0\r\n\r\n{}\r\n--"
    whole = form(('name="file"; filename="a.jsonl"', content), PURPOSE)["content"]
    for size in (*range(1, 40), len(whole)):
        reading = _Reading("b0", Form(io.BytesIO()), Bounds(1_000, 1, 1))
        try:
            for at in range(0, len(whole), size):
                reading.feed(whole[at : at + size])
            found = reading.end()
        except RequestError as error:
            raise AssertionError(f"pieces of {size}") from error
        assert (found.content.read(), found.values, found.filename) == (content, {"purpose": "batch"}, "a.jsonl")


def test_what_follows_the_end_of_a_form_is_not_kept() -> None:
    reading = _Reading("b0", Form(io.BytesIO()), Bounds(1_000, 1, 1))
    reading.feed(form(('name="file"; filename="a.jsonl"', b"{}"), PURPOSE)["content"])
    before = len(reading._rest)
    for _ in range(10):
        reading.feed(b"x" * 100_000)
    assert len(reading._rest) == before and reading.end().filename == "a.jsonl"
