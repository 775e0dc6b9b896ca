"""The host swallows exceptions of scripts and callbacks; the double keeps them for assertions."""

import sys

reports: list[tuple[str, BaseException | None]] = []


def report(message, *, exc_info=False):
    reports.append((message, sys.exc_info()[1]))


def display(error, task, *, full_traceback=False):
    reports.append((task, error))
