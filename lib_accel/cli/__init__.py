"""`python -m lib_accel`: the command line. One file per command."""
