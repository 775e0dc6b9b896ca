"""Entry point of `python -m lib_accel`."""

from .cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
