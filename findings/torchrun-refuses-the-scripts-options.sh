#!/usr/bin/env bash
# torchrun dies on options that belong to the training script. Everything behind the script's name is the script's, but argparse looks at all
# words before it knows where the script begins, and torchrun spells most of its own options twice (--log-dir, --log_dir). So a script's option
# that begins both spellings is "ambiguous": --log, --node, --master, --max, --start, with or without "=". One that begins a single option
# (--standalon) reaches the script, and so does everything behind `--`. accelerate's launcher hands over all of them. Exits non-zero when that
# changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "accelerate==1.15.0" "numpy==2.4.6"
echo 'import sys; print("the script got", sys.argv[1:])' > "$folder/train.py"
cd "$folder"
export OMP_NUM_THREADS=1
"$folder/venv/bin/python" -c 'import sys, torch, accelerate; print("Python", sys.version.split()[0], "torch", torch.__version__, "accelerate", accelerate.__version__)'

run() { # what comes out last, of both streams
  { "$@" 2>&1 || true; } | tail -1
}

for option in --log --node --master --max --start --log=folder; do
  said=$(run venv/bin/torchrun --nproc-per-node 1 train.py $option x)
  echo "torchrun train.py $option x: $said"
  [[ $said == *"ambiguous option: $option could match"* ]]
  said=$(run venv/bin/accelerate launch --cpu train.py $option x)
  echo "accelerate launch train.py $option x: $said"
  [[ $said == "the script got ['$option', 'x']" ]]
done
for given in "train.py --standalon x" "-- train.py --log x"; do
  said=$(run venv/bin/torchrun --nproc-per-node 1 $given)
  echo "torchrun $given: $said"
  [[ $said == "the script got ['--"*"', 'x']" ]]
done
