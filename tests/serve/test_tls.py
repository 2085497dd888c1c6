"""HTTPS by two files, read again on SIGHUP."""

from __future__ import annotations

import signal
import ssl
from pathlib import Path

import pytest
import trustme

from faults.house import House, gateway
from faults.load import until
from feilun.errors import SettingError
from feilun.serve.listening import Tls


def issue(authority: trustme.CA, folder: Path) -> dict[str, str]:
    """A certificate for this machine, written over what was there."""
    folder.mkdir(exist_ok=True)
    issued = authority.issue_cert("localhost", "127.0.0.1")
    files = {"certificate": str(folder / "chain.pem"), "key": str(folder / "key.pem")}
    issued.private_key_pem.write_to_path(files["key"])
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    Path(files["certificate"]).write_bytes(chain)
    return files


def presented(port: int) -> str:
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=5)


def test_a_renewed_certificate_is_used_after_sighup_and_a_broken_one_is_not(house: House, tmp_path: Path) -> None:
    authority = trustme.CA()
    files = issue(authority, tmp_path)
    with gateway(house, tls=files) as running:
        port = int(running.base.rsplit(":", 1)[1])
        assert running.base.startswith("https://")
        first = presented(port)
        context = ssl.create_default_context()
        authority.configure_trust(context)
        issue(authority, tmp_path)
        running.process.send_signal(signal.SIGHUP)
        until(lambda: presented(port) != first)
        second = presented(port)
        Path(files["key"]).write_text("not a key")
        running.process.send_signal(signal.SIGHUP)
        until(lambda: "certificate-not-reloaded" in running.log.read_text())
        assert presented(port) == second
        assert running.process.poll() is None


def test_a_certificate_without_its_key_is_said_in_words(tmp_path: Path) -> None:
    mine, other = issue(trustme.CA(), tmp_path / "mine"), issue(trustme.CA(), tmp_path / "other")
    with pytest.raises(SettingError, match="cannot be used"):
        Tls(Path(mine["certificate"]), Path(other["key"])).context()
    with pytest.raises(SettingError, match="cannot be used"):
        Tls(tmp_path / "nowhere.pem", Path(mine["key"])).context()


def test_nothing_older_than_tls_1_2_is_spoken(tmp_path: Path) -> None:
    files = issue(trustme.CA(), tmp_path)
    context = Tls(Path(files["certificate"]), Path(files["key"])).context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
