"""The page of the timestamping authority in headless Chromium: it stamps, saves, checks, finds what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from chancery.asn1 import tsp
from chancery.tsa import verification
from chancery.web import tsppage
from chancery.web.hot import Request
from chancery.web.tspaccess import Access
from chromiumkit import chromium
from fakes import FakeClock
from unit.tsa.kit import FakeTimestampStore, as_der, digests_of, root, serving
from unit.tsa.kit import service as make
from unit.web.test_web_tsp_access import CLOSED, KEY, robot
from unit.web.tsaclientmemory import MemoryUsage

VECTORS = Path(__file__).parents[2] / "vectors" / "tsp"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def page(browser):
    browser.problems.clear()
    return browser


def result(page, which: str) -> str:
    """The words of a section once they are final."""
    return page.until(
        f"(e => /…/.test(e.innerText) ? '' : e.innerText)(document.getElementById('{which}-result'))"
    )


def check(page, file, tsr) -> str:
    page.value("document.getElementById('check-result').replaceChildren()")
    page.choose("#check-file", file)
    page.choose("#check-tsr", tsr)
    page.value("document.querySelector('#check button').click()")
    return result(page, "check")


@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "rsa", "ed25519"])
def test_a_file_is_stamped_saved_and_checked_with_every_kind_of_key(page, tmp_path, kind):
    document = tmp_path / f"{kind}.txt"
    document.write_bytes(b"a document of " + kind.encode())
    store = FakeTimestampStore()
    with serving(make(kind, store=store)) as port:
        page.open(f"http://127.0.0.1:{port}/")
        page.choose("#stamp-file", document)
        words = result(page, "stamp")
        assert f"{document.name} was stamped." in words
        response = page.downloaded(f"{document.name}.tsr")
        info = verification.verify(
            verification.granted_token(response),
            digests=digests_of(document.read_bytes()),
            anchors=() if kind == "ed25519" else [as_der(root(kind))],
        ).info
        assert f"{info.serial:X}" in words
        assert info.serial in store.tokens
        saved = tmp_path / "saved.tsr"
        saved.write_bytes(response)
        words = check(page, document, saved)
        assert f"{document.name} existed at 2026-11-24T12:00:00Z." in words
        assert "CN=Test TSA" in words
    assert [] == page.problems


def test_what_is_wrong_is_said(page, tmp_path):
    document, other, tsr = tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "a.tsr"
    document.write_bytes(b"a")
    other.write_bytes(b"b")
    with serving(make()) as port:
        page.open(f"http://127.0.0.1:{port}/")
        page.choose("#stamp-file", document)
        result(page, "stamp")
        good = page.downloaded("a.txt.tsr")
        tsr.write_bytes(good)
        assert "is of another file" in check(page, other, tsr)
        # One octet of the signature, which ends the token of this kind.
        tsr.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        assert "The signature of the timestamp is not right" in check(page, document, tsr)
        tsr.write_bytes(good[:-40])
        assert "is not proved" in check(page, document, tsr)
        tsr.write_bytes(tsp.rejection(tsp.FailInfo.BAD_ALG, "no"))
        assert "refused: badAlg: no" in check(page, document, tsr)
        tsr.write_bytes(b"0" * 300_000)
        assert "too large" in check(page, document, tsr)
    assert [] == page.problems


def test_tokens_of_openssl_are_checked_as_well(page):
    document = VECTORS / "document.txt"
    with serving(make()) as port:
        page.open(f"http://127.0.0.1:{port}/")
        for kind in ("p256", "rsa"):
            for digest in ("sha256", "sha384", "sha512"):
                assert "document.txt existed at" in check(page, document, VECTORS / f"{kind}-{digest}.tsr")
        assert "certificate is not in the timestamp" in check(page, document, VECTORS / "p256-bare.tsr")
    assert [] == page.problems


def test_an_api_key_is_sent_where_one_is_asked_for(page, tmp_path):
    document = tmp_path / "k.txt"
    document.write_bytes(b"k")
    store = FakeTimestampStore()
    access = Access(CLOSED, MemoryUsage(robot()), FakeClock())
    with serving(make(store=store, access=access)) as port:
        page.open(f"http://127.0.0.1:{port}/")
        page.choose("#stamp-file", document)
        assert "badRequest: an API key is needed" in result(page, "stamp")
        page.value(
            f"document.getElementById('key').value = '{KEY.decode()}';"
            " document.getElementById('hash').value = 'SHA-512'"
        )
        page.choose("#stamp-file", document)
        page.until("/was stamped/.test(document.getElementById('stamp-result').innerText)")
    [token] = store.tokens.values()
    assert (tsp.DIGEST_OIDS["sha512"], "robot@127.0.0.1") == (token.hash_oid, token.client)


def test_dropped_files_are_stamped(page):
    with serving(make()) as port:
        page.open(f"http://127.0.0.1:{port}/")
        page.value(
            "(() => { const carrier = new DataTransfer(); for (const n of ['x', 'y'])"
            " carrier.items.add(new File([n], `${n}.txt`));"
            " document.getElementById('stamp-drop').dispatchEvent("
            "new DragEvent('drop', {dataTransfer: carrier, bubbles: true, cancelable: true})); })()"
        )
        page.until("document.querySelectorAll('#stamp-result .good').length === 2")
        assert page.downloaded("y.txt.tsr")
    assert [] == page.problems


def test_it_loads_nothing_from_elsewhere_and_runs_nothing_that_is_put_in(page):
    with serving(make()) as port:
        page.open(f"http://127.0.0.1:{port}/")
        loaded = page.value("performance.getEntriesByType('resource').map(one => one.name)")
        assert {f"http://127.0.0.1:{port}/{name}" for name in ("page.css", "page.js", "tsp.js")} == set(loaded)
        page.value(
            "document.body.append(Object.assign(document.createElement('img'), {src: 'http://127.0.0.1:1/x'}))"
        )
        blocked = page.value("fetch('http://127.0.0.1:1/').then(() => 'open', () => 'blocked')")
        assert "blocked" == blocked
        with pytest.raises(AssertionError):
            page.value("document.body.innerHTML = '<p>'")
    assert any("Content Security Policy" in one for one in page.problems)


def test_every_field_has_a_label_and_results_are_announced(page):
    with serving(make()) as port:
        page.open(f"http://127.0.0.1:{port}/")
        assert page.value("[...document.querySelectorAll('input, select')].every(one => one.labels.length === 1)")
        assert 2 == page.value("document.querySelectorAll('[role=status][aria-live=polite]').length")
        assert "en" == page.value("document.documentElement.lang")
        tree = page.call("Accessibility.getFullAXTree")["nodes"]
    fields = [one for one in tree if one.get("role", {}).get("value") in {"button", "combobox", "textbox"}]
    assert fields
    assert all(one["name"]["value"] for one in fields)


def test_its_answers_never_change_and_it_can_be_left_out():
    service = make()
    for target, wire in tsppage.load().items():
        answer = service.handler(Request(b"GET", target, b"", "192.0.2.1"))
        assert wire == answer
        assert b"Content-Security-Policy: default-src 'none'" in answer
    bare = make(page=False)
    assert 404 == bare.handler(Request(b"GET", b"/", b"", "192.0.2.1")).status
    bare._executor.shutdown()
