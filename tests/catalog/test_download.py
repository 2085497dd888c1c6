"""Only public addresses are connected to, wherever a name or a redirect leads (RELIABILITY 54)."""

from __future__ import annotations

import hashlib
import ipaddress
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from feilun import catalog
from feilun.catalog import download
from feilun.errors import ProjectError, UnavailableError
from feilun.pipeline.kinds import Model, Source

BODY = b"text,label\ngood,positive\n"
PIN = hashlib.sha256(BODY).hexdigest()


class Site(BaseHTTPRequestHandler):
    """Answers with rows, a redirect or nothing."""

    def do_GET(self):
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        found = self.path == "/rows.csv"
        self.send_response(200 if found else 404)
        self.end_headers()
        if found:
            self.wfile.write(BODY)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def only_this(address: download.Address) -> bool:
    return str(address) == "127.0.0.1"


PRIVATE = [
    "http://127.0.0.1:{port}/rows.csv",
    "http://localhost:{port}/rows.csv",
    "http://2130706433:{port}/rows.csv",
    "http://0x7f.1:{port}/rows.csv",
    "http://[::1]:{port}/rows.csv",
    "http://[::ffff:127.0.0.1]:{port}/rows.csv",
    "http://[64:ff9b::7f00:1]:{port}/rows.csv",
    "http://0.0.0.0:{port}/rows.csv",
    "http://10.1.2.3/rows.csv",
    "http://169.254.169.254/rows.csv",
    "http://[fe80::1]/rows.csv",
    "http://192.168.0.1/rows.csv",
    "http://100.64.0.1/rows.csv",
    "http://224.0.0.1/rows.csv",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_refused_case_54(tmp_path, site, address):
    url = address.format(port=site.rpartition(":")[2]) + f"#sha256={PIN}"
    with pytest.raises(ProjectError) as caught:
        catalog.fetch(url, Source, root=tmp_path)
    assert caught.value.name == "private-address"


def test_a_redirect_to_another_address_is_refused_case_54(tmp_path, site):
    port = site.rpartition(":")[2]
    with pytest.raises(ProjectError) as caught:
        download.download(f"http://{site}/to/http://127.0.0.2:{port}/rows.csv", tmp_path / "got", permit=only_this)
    assert caught.value.name == "private-address"


def test_a_name_that_also_has_a_private_address_is_refused_case_54(monkeypatch):
    answers = iter([["93.184.216.34"], ["93.184.216.34", "127.0.0.1"]])
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(2, 1, 6, "", (a, 80)) for a in next(answers)])
    assert download._resolve("rebinds.example", 80, download.is_public) == "93.184.216.34"
    with pytest.raises(ProjectError):
        download._resolve("rebinds.example", 80, download.is_public)


def test_a_permitted_file_comes_also_by_a_redirect(tmp_path, site):
    download.download(f"http://{site}/to//rows.csv", tmp_path / "got", permit=only_this)
    assert (tmp_path / "got").read_bytes() == BODY


def test_a_file_larger_than_the_limit_is_refused(tmp_path, site):
    with pytest.raises(ProjectError, match="larger than 10 bytes"):
        download.download(f"http://{site}/rows.csv", tmp_path / "got", limit=10, permit=only_this)


@pytest.mark.parametrize("path", ["/missing.csv", "/to/ftp://x/rows.csv"])
def test_what_is_not_there_says_so(tmp_path, site, path):
    with pytest.raises(UnavailableError):
        download.download(f"http://{site}{path}", tmp_path / "got", permit=only_this)


def test_an_address_without_a_hash_is_refused_with_a_hint(tmp_path):
    with pytest.raises(ProjectError) as caught:
        catalog.fetch("https://example.org/rows.csv", Source, root=tmp_path)
    assert "#sha256=" in str(caught.value.hint)
    with pytest.raises(ProjectError, match="a model is a folder"):
        catalog.fetch(f"https://example.org/rows.csv#sha256={PIN}", Model, root=tmp_path)


def test_a_pinned_file_that_is_kept_needs_no_network(tmp_path):
    (tmp_path / "rows.csv").write_bytes(BODY)
    catalog.cache.keep(tmp_path / "rows.csv", PIN, "rows")
    fetched = catalog.fetch(f"https://nowhere.invalid/rows.csv#sha256={PIN}", Source, root=tmp_path)
    assert (fetched.files / "rows.csv").read_bytes() == BODY
    assert fetched.pinned and fetched.facts["format"] == "csv"


def test_the_documentation_networks_of_the_internet_are_not_public():
    networks = ("192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "240.0.0.1", "fc00::1", "2002:7f00:1::")
    assert not any(download.is_public(ipaddress.ip_address(address)) for address in networks)
    assert download.is_public(ipaddress.ip_address("2606:4700:4700::1111"))
