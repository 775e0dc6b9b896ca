"""What an `install.py` may import; pip is only noted."""

import importlib.metadata

pip_calls: list[str] = []


def is_installed(package):
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def run_pip(command, desc=None, live=False):
    pip_calls.append(command)
