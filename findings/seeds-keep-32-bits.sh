#!/usr/bin/env bash
# A torch generator takes seeds of 64 bits, and initial_seed() gives all of them back, but on a processor only the low 32 decide: seeds that
# differ above draw the same noise, so the same picture. Seeds made as job << 32 | number repeat every job; of 200,000 pictures with random
# 64-bit seeds (ComfyUI's kind) some are drawn twice. -1 and 2**32 - 1 are one seed, too. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy"
"$folder/venv/bin/python" - <<'PYTHON'
import random

import torch

print("torch", torch.__version__)


def latents(seed):
    return torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(seed))


seeds = [job << 32 | 7 for job in (0, 1, 2, 123456789)] + [8]
kept = [torch.Generator().manual_seed(seed).initial_seed() for seed in seeds]
same = [torch.equal(latents(seeds[0]), latents(seed)) for seed in seeds]
for line in zip(seeds, kept, same):
    print("seed {}, initial_seed() {}, noise of seed 7: {}".format(*line))
negative = torch.equal(latents(-1), latents(2**32 - 1))
print("noise of seed -1 is that of 2**32 - 1:", negative)

draw, first, pairs = random.Random(0), {}, []
for seed in (draw.getrandbits(64) for _ in range(200_000)):
    if (other := first.setdefault(seed & 0xFFFFFFFF, seed)) != seed:
        pairs.append((other, seed))
twice = sum(torch.equal(latents(a), latents(b)) for a, b in pairs)
print(f"of 200000 random seeds of 64 bits, {twice} draw the noise of another one, as {pairs[0][0]} and {pairs[0][1]} do")
right = kept == seeds and same == [True] * 4 + [False] and negative and twice == len(pairs) > 0
raise SystemExit(0 if right else 1)
PYTHON
