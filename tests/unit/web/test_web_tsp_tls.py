"""The timestamping authority over HTTPS: keys travel unseen, and a client's certificate is who it is."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl

import httpx
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from chancery.asn1 import tsp
from chancery.ports.timestamps import ClientKind
from chancery.web.hot import Limits
from chancery.web.server import server_context
from chancery.web.tspaccess import Access
from fakes import FakeClock
from unit.tsa.kit import FakeTimestampStore, request, serving
from unit.tsa.kit import service as make
from unit.web.served import Served
from unit.web.test_web_tsp_access import CLOSED, KEY, robot
from unit.web.tsaclientmemory import MemoryUsage, tsa_client
from unit.web.world import make_certificate, to_der

KEYED = {"Authorization": f"Bearer {KEY.decode()}"}
TYPE = {"Content-Type": "application/timestamp-query"}


@pytest.fixture
def place(tmp_path):
    return Served(tmp_path)


@contextlib.contextmanager
def over_tls(place, *clients, refused=lambda _: None, **options):
    store = FakeTimestampStore()
    access = Access(CLOSED, MemoryUsage(*clients), FakeClock())
    context = server_context(place.files, refused)
    with serving(make(store=store, access=access), tls=context, **options) as port:
        yield f"https://localhost:{port}/tsa", store


def trust(place, pair=None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=place.root)
    if pair is not None:
        context.load_cert_chain(*pair)
    return context


def post(url, context, **headers):
    with httpx.Client(verify=context, trust_env=False) as client:
        return client.post(url, content=request(), headers=TYPE | headers)


def test_a_certificate_and_a_key_are_their_clients_and_without_them_nobody_is(place):
    known = make_certificate("device", "issuing", serial=501)
    other = make_certificate("other", "issuing", serial=502)
    device = tsa_client("device", ClientKind.CERTIFICATE, hashlib.sha256(to_der(known)).digest())
    with over_tls(place, device, robot()) as (url, store):
        statuses = [
            post(url, trust(place, place.pair("device", known))).status_code,
            post(url, trust(place), **KEYED).status_code,
            post(url, trust(place, place.pair("other", other))).status_code,
            post(url, trust(place)).status_code,
        ]
    assert [200, 200, 403, 401] == statuses
    assert ["device@127.0.0.1", "robot@127.0.0.1"] == [one.client for one in store.tokens.values()]


def test_a_certificate_of_another_ca_or_for_servers_ends_the_handshake(place):
    reasons = []
    with over_tls(place, refused=reasons.append) as (url, _):
        for issuer, usage in (
            ("elsewhere", ExtendedKeyUsageOID.CLIENT_AUTH),
            ("issuing", ExtendedKeyUsageOID.SERVER_AUTH),
        ):
            stranger = make_certificate("stranger", issuer, serial=503, usage=usage)
            with pytest.raises(httpx.HTTPError):
                post(url, trust(place, place.pair("stranger", stranger)))
    assert 2 == len(reasons)


def test_many_requests_on_one_connection_and_a_peer_that_ends_its_half(place):
    with over_tls(place, robot()) as (url, store), httpx.Client(verify=trust(place), trust_env=False) as client:
        for _ in range(5):
            answer = client.post(url, content=request(), headers=TYPE | KEYED)
            assert 0 == tsp.decode_response(answer.content).status
        host, port = "localhost", int(url.split(":")[2].split("/")[0])
        with (
            socket.create_connection((host, port)) as raw,
            trust(place).wrap_socket(raw, server_hostname=host) as tls,
        ):
            tls.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET")
            assert tls.recv(4096).startswith(b"HTTP/1.1 200 OK")
            tls.shutdown(socket.SHUT_WR)
            while tls.recv(4096):
                pass
    assert 5 == len(store.tokens)


def test_who_opens_a_connection_and_says_nothing_is_shown_out(place):
    limits = Limits(header_timeout=0.3, max_connections=4)
    with over_tls(place, limits=limits) as (url, _):
        port = int(url.split(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", port)) as silent:
            silent.settimeout(30)
            # Neither a handshake that never begins
            assert b"" == silent.recv(1)
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.settimeout(30)
            with trust(place).wrap_socket(raw, server_hostname="localhost") as tls:
                # nor a request that never does is waited for.
                assert b"" == tls.recv(1)
