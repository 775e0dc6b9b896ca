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
