"""Errors of the command line."""


class CommandError(Exception):
    """Something the user can mend; its sentence is all that is printed."""
