"""Hosts for the extension's tests. Without gradio (the host's is for Python up to 3.12) they are left out."""

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "host"))

if importlib.util.find_spec("gradio") is None:
    collect_ignore_glob = ["test_*"]


@pytest.fixture
def start(tmp_path):
    """Starts hosts, one after another; the last one is in force."""
    from harness import Host

    running = []

    def start_one(**given):
        while running:
            running.pop().stop()
        running.append(Host(tmp_path, **given))
        return running[-1]

    yield start_one
    while running:
        running.pop().stop()


@pytest.fixture
def host(start):
    return start()


@pytest.fixture
def jobs(host, monkeypatch):
    """The jobs that are started, in order."""
    started = []
    run = host.processing.process_images

    def process_images(p):
        started.append(p)
        return run(p)

    monkeypatch.setattr(host.processing, "process_images", process_images)
    return started


@pytest.fixture(scope="module")
def browsed(tmp_path_factory):
    """A real WebUI for tests in a browser, which leave it as they found it."""
    import real_webui

    data = tmp_path_factory.mktemp("browser")
    (data / "styles.csv").write_text('name,prompt,negative_prompt\nfilm,"film of {prompt}",\n', encoding="utf-8")
    server = real_webui.WebUI(data)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser():
    import real_browser
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=real_browser.executable(), args=list(real_browser.FLAGS), timeout=300_000)
        yield started
        started.close()


@pytest.fixture
def fresh(browser, browsed):
    """Opens pages, each as a newcomer sees it. No test may leave errors of ours on one."""
    from real_browser import Page

    opened = []

    def page():
        context = browser.new_context(viewport={"width": 1500, "height": 1300})
        opened.append((context, Page(context, browsed)))
        return opened[-1][1]

    yield page
    errors = [error for _, page in opened for error in page.errors_of_ours()]
    for context, _ in opened:
        context.close()
    assert errors == []


@pytest.fixture
def page(fresh):
    return fresh()
