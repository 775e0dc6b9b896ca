"""Time spent in U-Net calls: summed, and on a GPU told by events on the streams of the model's own device."""

import torch

from lib_accel.engine.stopwatch import Stopwatch


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
