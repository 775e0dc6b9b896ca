"""What tests of `edit_images` begin with."""

import numpy as np
import pytest
from PIL import Image

from lib_accel import sample


@pytest.fixture(scope="module")
def pipe():
    return sample.load_pipeline(random=True)


@pytest.fixture(scope="module")
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
