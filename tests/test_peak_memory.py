"""The peak of tensors in a U-Net call, counted without computing it (benchmarks/peak_memory.py)."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import peak_memory


def test_what_is_held_at_once_is_counted():
    given = torch.empty(1000, device="meta")
    with peak_memory.Held() as held:
        kept = given + 1  # 4000 bytes
        for _ in range(3):
            kept = kept * 2  # the new one beside the old one
        view = kept.view(10, 100).add_(1)  # nothing new
    assert (held.peak, held.now) == (8000, 4000) and view.shape == (10, 100)
    del kept, view
    assert held.now == 0


def test_attention_holds_no_map_and_methods_hold_no_more(capsys):
    query = torch.empty(1, 2, 500, 8, device="meta")
    with peak_memory.fused(), peak_memory.Held() as held:
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert held.peak == query.numel() * 4
    assert peak_memory.main(["--size", "64", "--variants", "plain", "downsampling:factor=2"]) == 0
    plain, down = (float(line.split("|")[2]) for line in capsys.readouterr().out.splitlines()[-2:])
    assert down <= plain
