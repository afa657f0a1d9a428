"""New certificates and keys as commands: over TLS handshakes, and against a SuperLink without a network."""

import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import closing

import pytest
from typer.testing import CliRunner

from fedtl.cli.main import app
from fedtl.deployment.certificates import certificate_fingerprint
from fedtl.deployment.coordinator.admitted import read_admitted, read_expelled
from fedtl.deployment.coordinator.server import create_server
from fedtl.deployment.coordinator.sites import admit_site
from fedtl.deployment.coordinator.superlink import SuperLink
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.keys import fingerprint, keys_match, public_key_pem, read_public_key
from tests.real_processes import Federation, fedtl_command, wait


@pytest.fixture
def both(tmp_path):
    """The folders of a coordinator and of a site that trusts it."""
    server, site = tmp_path / "srv", tmp_path / "clinic"
    create_server(server, "localhost", "127.0.0.1:1", 1)
    Home.create(site, "clinic", "localhost:1")
    fedtl("silo", "trust", site, server / "tls" / "ca.crt")
    return server, site


def fedtl(*words, code=0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, f"{done.output} {done.exception}"
    return done.output + done.stderr


def connects(server, site):
    """Whether a site that trusts its ca.crt shakes hands with a server that has the folder's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server / "tls" / "server.pem", server / "tls" / "server.key")
    here, there = socket.socketpair()

    def answer():
        try:
            context.wrap_socket(there, server_side=True).close()
        except OSError:
            there.close()

    thread = threading.Thread(target=answer)
    thread.start()
    client = ssl.create_default_context(cafile=str(site / "ca.crt"))
    try:
        with client.wrap_socket(here, server_hostname="localhost"):
            return True
    except ssl.SSLCertVerificationError:
        return False
    finally:
        here.close()
        thread.join(10)


def test_a_renewed_certificate_needs_nothing_of_the_sites(both):
    server, site = both
    before = certificate_fingerprint(server / "tls" / "server.pem")
    fedtl("server", "renew", server)
    assert certificate_fingerprint(server / "tls" / "server.pem") != before
    assert connects(server, site)


def test_a_new_authority_cuts_no_site_off_that_trusts_it_first(both, tmp_path):
    server, site = both
    shutil.copytree(site, tmp_path / "late")
    said = fedtl("server", "renew", server, "--authority")
    assert certificate_fingerprint(server / "tls" / "next" / "ca.crt") in said
    assert "exists" in str(CliRunner().invoke(app, ["server", "renew", str(server), "--authority"]).exception)
    fedtl("silo", "trust", site, server / "tls" / "next" / "ca.crt")
    assert connects(server, site)  # before the switch
    fedtl("server", "renew", server, "--switch")
    assert connects(server, site)
    assert not connects(server, tmp_path / "late")
    fedtl("silo", "trust", tmp_path / "late", server / "tls" / "ca.crt", "--only")
    assert connects(server, tmp_path / "late")
    assert "," not in certificate_fingerprint(tmp_path / "late" / "ca.crt")
    fedtl("server", "renew", server)  # signed by the new key
    assert connects(server, site)


def test_the_fingerprint_is_openssls(both):
    done = subprocess.run(
        ["openssl", "x509", "-in", both[0] / "tls" / "ca.crt", "-noout", "-fingerprint", "-sha256"],
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip().rpartition("=")[2] == certificate_fingerprint(both[0] / "tls" / "ca.crt")


def test_a_site_gets_a_new_key_under_its_name(both, tmp_path):
    server, site = both
    old = read_public_key(site / "node.key.pub")
    admit_site(server, site / "node.key.pub", "")
    said = fedtl("silo", "rotate", site)
    new = read_public_key(site / "node.key.pub")
    assert fingerprint(new) in said
    assert new != old
    assert keys_match(site / "node.key", site / "node.key.pub")
    assert keys_match(site / "node.key.old", site / "node.key.pub.old")
    assert (site / "node.key.old").stat().st_mode & 0o077 == 0
    assert fingerprint(new) in fedtl("server", "rotate", server, "clinic", site / "node.key.pub")
    assert read_admitted(server)["clinic"].key == new
    assert read_expelled(server) == {old: "clinic"}
    for words in (
        ("rotate", server, "clinic", site / "node.key.pub"),
        ("rotate", server, "clinic", site / "node.key.pub.old"),
    ):
        assert CliRunner().invoke(app, ["server", *map(str, words)]).exception is not None
    assert read_admitted(server)["clinic"].key == new


@pytest.mark.nightly
def test_a_site_that_runs_connects_after_each_renewal(tmp_path):
    """With nginx, the SuperLink and the site's SuperNode: another authority, and then another key of the site."""
    with closing(Federation(tmp_path)) as federation:
        site, tls = federation.add("clinic").path, federation.server / "tls"
        old = read_public_key(site / "node.key.pub")

        def again(times):
            for name in [name for name in ("clinic", "server") if name in federation.processes]:
                federation.stop(name)
            federation.up()
            federation.run("clinic", "--part", "node")
            federation.connected("clinic", times)

        again(1)
        fedtl_command("server", "renew", federation.server, "--authority")
        fedtl_command("silo", "trust", site, tls / "next" / "ca.crt")
        fedtl_command("server", "renew", federation.server, "--switch")
        fedtl_command("silo", "trust", site, tls / "ca.crt", "--only")
        again(2)
        fedtl_command("silo", "rotate", site)
        fedtl_command("server", "rotate", federation.server, "clinic", site / "node.key.pub")
        federation.stop("clinic")
        federation.run("clinic", "--part", "node")
        federation.connected("clinic", 3)
        nodes = SuperLink(federation.server).nodes()
        assert nodes[public_key_pem(old)].expelled
        new = public_key_pem(read_public_key(site / "node.key.pub"))
        wait("the new key", lambda: SuperLink(federation.server).nodes()[new].online, 30)
