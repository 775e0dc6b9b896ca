"""Time spent in U-Net calls: summed, and on a GPU told by events on the streams of the model's own device."""

import weakref

import torch

from lib_accel.engine.stopwatch import MOST_WAITING, Stopwatch


def test_spans_are_summed(monkeypatch):
    now = iter([1.0, 1.5, 7.0, 9.0])
    monkeypatch.setattr("lib_accel.engine.stopwatch.time.perf_counter", lambda: next(now))
    watch = Stopwatch()
    for _ in range(2):
        watch.start(torch.device("cpu"))
        watch.stop()
    watch.stop()
    assert watch.seconds() == 2.5


def test_both_events_of_a_span_are_recorded_on_the_models_gpu(monkeypatch):
    """It need not be the current one; the time between events of two devices cannot be told."""

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            self.stream = stream

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            assert self.stream == end.stream == "stream of cuda:1"
            return 250.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: f"stream of {device or 'cuda:0'}")
    watch = Stopwatch()
    watch.start(torch.device("cuda", 1))
    watch.stop()
    assert watch.seconds() == 0.25


def test_events_that_are_over_are_read_though_nobody_asks(monkeypatch):
    """A model that stays accelerated for days makes two for every call."""
    alive, over = [], []

    class Event:
        def __init__(self, enable_timing):
            alive.append(weakref.ref(self))

        def record(self, stream):
            pass

        def query(self):
            return bool(over)

        def synchronize(self):
            assert over, "a GPU was waited for"

        def elapsed_time(self, end):
            return 10.0

    def call(times):
        for _ in range(times):
            watch.start(torch.device("cuda"))
            watch.stop()
        return sum(event() is not None for event in alive)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: None)
    watch = Stopwatch()
    assert call(MOST_WAITING + 50) == 2 * (MOST_WAITING + 50)
    over.append(True)
    assert call(2000) == 2 * MOST_WAITING
    assert round(watch.seconds(), 6) == 0.01 * (MOST_WAITING + 2050)
