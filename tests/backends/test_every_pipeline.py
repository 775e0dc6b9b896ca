"""Every pipeline class of diffusers that can be built tiny, with every method: what is said is what was counted, and off is exact."""

import pipelines
import pytest
from complaints import METHODS, complaints

SHARDS = 16


@pytest.mark.parametrize("strict", ["1", ""])
@pytest.mark.parametrize(
    ("module", "name"), [("pipeline_stable_diffusion", "StableDiffusionPipeline"), ("pipeline_pixart_alpha", "PixArtAlphaPipeline")]
)
def test_well_known_pipelines_are_built(module, name, strict, monkeypatch):
    """What follows would say nothing if it built nothing."""
    monkeypatch.setenv("ACCEL_STRICT", strict)
    (source,) = (source for source in pipelines.sources() if source.endswith(f".{module}"))
    (kind,) = (kind for kind in pipelines.classes([source]) if kind.__name__ == name)
    built, why = pipelines.build(kind)
    assert built is not None, why
    for method in METHODS:
        assert complaints(built, method) == []


@pytest.mark.parametrize("shard", range(SHARDS))
def test_what_is_told_is_what_was_counted(shard):
    """A class that cannot be built, or whose plain call fails, has nothing to compare with."""
    wrong = []
    for kind in pipelines.classes(pipelines.sources()[shard::SHARDS]):
        built, _ = pipelines.build(kind)
        for method in METHODS if built is not None else ():
            try:
                found = complaints(built, method)
            except Exception as error:
                found = [f"{type(error).__name__}: {error}"]
            wrong += [f"{kind.__name__} with {type(method).__name__}: {what}" for what in found]
    assert not wrong, "\n".join(wrong)
