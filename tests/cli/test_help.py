"""The help that no command gives, and the one progress bar of long work."""

import shlex
import sys
from types import SimpleNamespace

import pytest

from lib_accel.cli import main as cli
from lib_accel.cli import progress


def test_without_a_command_a_short_help_names_the_main_jobs(capsys):
    assert cli.main([]) == 0
    told = capsys.readouterr().out
    assert all(f"  {name} " in told for name in cli.COMMANDS) and all(example in told for _, example in cli.JOBS)
    assert len(told.splitlines()) < 40 and max(map(len, told.splitlines())) <= 110


@pytest.mark.parametrize("example", [example for _, example in cli.JOBS])
def test_its_examples_are_commands(example):
    parser, _ = cli.parser_of()
    assert parser.parse_args(shlex.split(example)).command == example.split()[0]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_of_a_command_is_explained(name):
    commands = next(action for action in cli.parser_of()[0]._actions if action.dest == "command")
    parser = commands.choices[name]
    assert [action.dest for action in parser._actions if not action.help] == []
    assert "u-net" not in parser.format_help()


def test_the_console_script_is_called_by_its_name(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/accel"])
    assert cli.main() == 0
    assert "  accel demo" in capsys.readouterr().out


def test_one_bar_for_all_passes(monkeypatch):
    made = []

    class Bar(SimpleNamespace):
        def update(self, steps):
            self.done += steps

        def close(self):
            self.closed = True

    def tqdm(total, **more):
        made.append(Bar(total=total, done=0, closed=False))
        return made[-1]

    monkeypatch.setitem(sys.modules, "tqdm", SimpleNamespace(tqdm=tqdm))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    pipeline = SimpleNamespace()
    with progress.progress(pipeline, 6, "work"):
        for steps in (2, 4):
            with pipeline.progress_bar(total=steps) as bar:
                for _ in range(steps):
                    bar.update()
    assert [(bar.total, bar.done, bar.closed) for bar in made] == [(6, 6, True)]
    assert not hasattr(pipeline, "progress_bar")
