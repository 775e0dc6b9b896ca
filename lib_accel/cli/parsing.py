"""A parser whose errors are one sentence, as all others: the option, the value, what it must be."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

_KINDS = {"int": "a whole number", "float": "a number"}
# What argparse says, and what is said in its place.
_KIND = re.compile(r"argument (?P<name>\S+?)(?:/\S+)?: invalid (?P<kind>\w+) value: (?P<value>.*)", re.DOTALL)
_CHOICE = re.compile(r"argument (?P<name>\S+?)(?:/\S+)?: invalid choice: (?P<value>.*?)(?:, maybe .*)? \(choose from .*", re.DOTALL)
_EMPTY = re.compile(r"argument (?P<name>\S+?)(?:/\S+)?: expected .* arguments?")
_REQUIRED = re.compile(r"the following arguments are required: (?P<names>.*)")
_UNKNOWN = re.compile(r"unrecognized arguments: (?P<words>.*)", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """``command``: what errors begin with, as those of the command itself do; without one the program."""

    def __init__(self, *args: Any, command: str | None = None, **more: Any) -> None:
        super().__init__(*args, **more)
        self._command = command or self.prog

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            # By the command's own parser, whose help is the one to read.
            self._parser_of(options).error(f"unrecognized arguments: {' '.join(unknown)}")
        return options

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self._command}: {self._sentence(message)} See {self.prog} --help.\n")

    def _parser_of(self, options: argparse.Namespace) -> Parser:
        commands = next((action for action in self._actions if isinstance(action, argparse._SubParsersAction)), None)
        return self if commands is None else commands.choices[getattr(options, commands.dest)]

    def _sentence(self, message: str) -> str:
        if found := _KIND.fullmatch(message):
            return f"{found['name']} is {found['value']}; it must be {_KINDS.get(found['kind'], found['kind'])}."
        if found := _CHOICE.fullmatch(message):
            return f"{found['name']} is {found['value']}; it must be one of {', '.join(self._choices(found['name']))}."
        if found := _EMPTY.fullmatch(message):
            return f"{found['name']} is given without a value."
        if found := _REQUIRED.fullmatch(message):
            return f"{found['names']} is missing."
        if found := _UNKNOWN.fullmatch(message):
            return f"{found['words']!r} is not understood."
        return f"{message}."

    def _choices(self, name: str) -> list[str]:
        for action in self._actions:
            if name in (*action.option_strings, action.metavar, action.dest):
                return list(map(str, action.choices or ()))
        return []
