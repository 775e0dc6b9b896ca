#!/usr/bin/env bash
# accelerate's gather_object takes "a nested list/tuple/dictionary of picklable object" and promises the same structure back. With one
# process a dictionary comes back as it is; with two the answer is a list of the keys, and every value is gone. Text comes back as letters.
# Only lists are safe. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "accelerate==1.15.0" "numpy"
cat >"$folder/gather.py" <<'PYTHON'
import accelerate
from accelerate import PartialState
from accelerate.utils import gather_object

state = PartialState(cpu=True)
found = [gather_object({"rank": state.process_index, "seed": 7}), gather_object("ab"), gather_object([["x"], 1])]
if state.is_main_process:
    print("accelerate", accelerate.__version__, "processes", state.num_processes, *found, flush=True)
    one = [{"rank": 0, "seed": 7}, "ab", [["x"], 1]]
    two = [["rank", "seed", "rank", "seed"], ["a", "b", "a", "b"], [["x"], 1, ["x"], 1]]
    assert found == (one if state.num_processes == 1 else two), "gather_object changed"
PYTHON
export OMP_NUM_THREADS=1
"$folder/venv/bin/python" "$folder/gather.py"
"$folder/venv/bin/python" -m torch.distributed.run --nproc-per-node 2 "$folder/gather.py"
