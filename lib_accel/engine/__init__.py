"""One U-Net call: the accelerator, the host's side, hooks, rows that are dropped, the clock, auto and its thresholds."""
