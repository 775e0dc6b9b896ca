#!/usr/bin/env bash
# torch.utils.flop_counter counts nothing for scaled_dot_product_attention on a processor: the same call has its flops on shapes alone
# (device "meta"), where it is taken apart into matrix products. Totals of a U-Net measured on a CPU are too low by its attention.
# Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

print("torch", torch.__version__)
counted = {}
for device in ("meta", "cpu"):
    q = torch.ones(1, 2, 16, 8, device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        F.scaled_dot_product_attention(q, q, q)
    counted[device] = counter.get_total_flops()
    print(f"{device}: {counted[device]} flops of {2 * 2 * 2 * 16 * 16 * 8}")
raise SystemExit(0 if counted == {"meta": 16384, "cpu": 0} else 1)
PYTHON
