#!/usr/bin/env bash
# LyCORIS' merge_to writes a network into the model's weights, to draw with it at no extra cost: the picture should stay the same, and with a plain
# LoRA it does. A LoHa, and a LoKr whose larger part is itself a product, count alpha / dim twice when merged: at dim 16 and the default alpha of 1
# what arrives is a sixteenth of what was trained, and the picture looks as if the file did next to nothing. precise=True does the same. Only
# alpha = dim is safe, and LyCORIS' documents advise 1 to half of dim. Merge with a weight of dim / alpha, or keep it applied. Exits non-zero
# when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "lycoris_lora==4.1.3" "safetensors==0.8.0" "numpy==2.4.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import logging
from importlib.metadata import version

import torch
from lycoris import create_lycoris, create_lycoris_from_weights
from safetensors.torch import load_file

logging.disable(logging.WARNING)
print("lycoris_lora", version("lycoris_lora"), "torch", torch.__version__)
rows = torch.randn(64, 320, generator=torch.Generator().manual_seed(0))


def model():
    """A layer of the size that Stable Diffusion 1.5 has in its outer attention blocks."""
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(320, 320))


def by_hand(file, alpha):
    """The change of the weights as the published formulas have it: alpha / dim, once."""
    part = {name.removeprefix("lycoris_0."): values for name, values in load_file(file).items()}
    if "lora_up.weight" in part:
        return part["lora_up.weight"] @ part["lora_down.weight"] * (alpha / len(part["lora_down.weight"]))
    if "hada_w1_a" in part:
        change = (part["hada_w1_a"] @ part["hada_w1_b"]) * (part["hada_w2_a"] @ part["hada_w2_b"])
        return change * (alpha / len(part["hada_w1_b"]))
    return torch.kron(part["lokr_w1"], part["lokr_w2_a"] @ part["lokr_w2_b"]) * (alpha / len(part["lokr_w2_b"]))


@torch.no_grad()
def strengths(algo, dim, alpha):
    trained = model()
    network = create_lycoris(trained, 1.0, linear_dim=dim, linear_alpha=alpha, algo=algo)
    network.apply_to()
    for values in network.parameters():
        values.normal_(std=0.1)
    network.eval()
    plain = model()(rows)
    change = trained(rows) - plain
    network.save_weights("network.safetensors", None, {})
    assert torch.allclose(rows @ by_hand("network.safetensors", alpha).T, change, rtol=1e-3, atol=1e-4 * change.abs().max())
    found, ways = [], ("applied", "merged", "merged precisely", "merged at dim / alpha")
    for way in ways:
        drawn = model()
        network, _ = create_lycoris_from_weights(1.0, "network.safetensors", drawn)
        network.eval()
        if way == "applied":
            network.apply_to()
        else:
            network.merge_to(dim / alpha if "alpha" in way else 1.0, precise="precisely" in way)
        got = drawn(rows) - plain
        found.append(((got * change).sum() / (change * change).sum()).item())
        assert torch.allclose(got, change * found[-1], rtol=1e-3, atol=1e-3 * change.abs().max()), "more than the strength differs"
    told = (f"{way} {strength:.4f}" for way, strength in zip(ways, found))
    print(f"{algo}, dim {dim}, alpha {alpha}: of the trained strength its file gives", ", ".join(told))
    return found


right = []
for algo, dim, alpha in (("lora", 16, 1), ("loha", 4, 4), ("loha", 4, 1), ("loha", 16, 1), ("lokr", 8, 4), ("lokr", 8, 1)):
    once = alpha / dim if algo != "lora" else 1.0
    expected = [1.0, once, once, once * dim / alpha]
    right.append(all(abs(a - b) < 1e-3 for a, b in zip(strengths(algo, dim, alpha), expected)))
raise SystemExit(0 if all(right) else 1)
PYTHON
