#!/usr/bin/env bash
# safetensors.numpy asks for arrays that are "contiguous and dense". A transposed one is, in Fortran's order, and it is what conversions of weights
# make: Flax's and TensorFlow's kernels, turned for PyTorch. safetensors 0.7.0 stores its values. 0.8.0 stores its memory under the new shape:
# right name, shape and numbers, wrong places, and no error. np.ascontiguousarray first. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/convert.py" <<'PYTHON'
import sys

import numpy
import safetensors
from safetensors.numpy import load, load_file, save, save_file

dense = numpy.arange(6, dtype=numpy.float32).reshape(2, 3)
kernel = numpy.random.default_rng(0).standard_normal((3, 3, 4, 8)).astype(numpy.float32)
right = {"dense": dense.T, "convolution": kernel.transpose(3, 2, 0, 1), "bias": numpy.ones(8, numpy.float32)}
save_file(right, sys.argv[1])
print("safetensors", safetensors.__version__, "numpy", numpy.__version__)
kept = []
for way, found in (("save_file", load_file(sys.argv[1])), ("save", load(save(right)))):
    for name, values in right.items():
        kept.append(numpy.array_equal(found[name], values))
        same = numpy.array_equal(numpy.sort(found[name], None), numpy.sort(values, None)) and found[name].shape == values.shape
        assert same and found[name].dtype == values.dtype
        print(f"{way}, {name} {values.shape}: shape and set of numbers are kept; values in their places: {(found[name] == values).mean():.0%}")
print("dense:", right["dense"].tolist(), "is read as", load(save(right))["dense"].tolist())
mended = load(save({name: numpy.ascontiguousarray(values) for name, values in right.items()}))
assert all(numpy.array_equal(mended[name], values) for name, values in right.items())
raise SystemExit(0 if kept == ([True, True, True] if sys.argv[2] == "kept" else [False, False, True]) * 2 else 1)
PYTHON
for pair in 0.7.0:kept 0.8.0:scrambled; do
    python3 -m venv "$folder/${pair%:*}"
    "$folder/${pair%:*}/bin/pip" install --quiet "safetensors==${pair%:*}" "numpy==2.4.6"
    "$folder/${pair%:*}/bin/python" "$folder/convert.py" "$folder/${pair%:*}.safetensors" "${pair#*:}"
done
