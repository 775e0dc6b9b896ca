"""A real WebUI that asks who is there: our routes ask, too. Skipped without A1111_ROOT."""

import base64
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar

import pytest
import real_webui

pytestmark = [pytest.mark.host, pytest.mark.skipif(real_webui.root() is None, reason="A1111_ROOT names no WebUI")]

ROUTES = ("/accel/v1/schema", "/accel/v1/report")


@pytest.fixture
def start(tmp_path):
    """Starts a WebUI with more flags."""
    running = []

    def started(*flags):
        running.append(real_webui.WebUI(tmp_path, flags=flags))
        return running[-1]

    yield started
    for server in running:
        server.stop()


def test_api_auth(start):
    webui = start("--api-auth", "ann:one,bob:two")

    def status(route, user=None):
        headers = {"Authorization": "Basic " + base64.b64encode(user.encode()).decode()} if user else {}
        return webui._ask(urllib.request.Request(webui.address + route, headers=headers))[0]

    # The host's own routes, and ours just as they do.
    for route in ("/sdapi/v1/memory", *ROUTES):
        assert [status(route), status(route, "ann:two"), status(route, "cid:one"), status(route, "ann:")] == [401] * 4, route
        assert [status(route, "ann:one"), status(route, "bob:two")] == [200, 200], route


def test_gradio_auth(start):
    webui = start("--gradio-auth", "ann:one")
    assert [webui.get(route)[0] for route in ROUTES] == [401, 401]
    forged = urllib.request.Request(webui.address + ROUTES[0], headers={"Cookie": "access-token=abc; access-token-unsecure=abc"})
    assert webui._ask(forged)[0] == 401
    person = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    form = urllib.parse.urlencode({"username": "ann", "password": "one"}).encode()
    assert person.open(webui.address + "/login", form, timeout=600).status == 200
    assert [person.open(webui.address + route, timeout=600).status for route in ROUTES] == [200, 200]
