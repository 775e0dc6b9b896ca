"""The help that no command gives, and the one progress bar of long work."""

import shlex
import sys
from types import SimpleNamespace

import pytest

from lib_accel import __version__
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


def _tells_default(parser, dest):
    """Whether the help of an option says what holds without it."""
    return "default" in next(action.help for action in parser._actions if action.dest == dest)


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("dmeo", f"COMMAND is 'dmeo'; it must be one of {', '.join(cli.COMMANDS)}."),
        ("demo --size 500x500", "demo: --size is '500x500'; it must be a whole number."),
        ("demo --guidance much", "demo: --guidance is 'much'; it must be a number."),
        ("demo --dtype half", "demo: --dtype is 'half'; it must be one of float32, float16, bfloat16."),
        ("calibrate --largest 40", "calibrate: --largest is 40; it must be one of 32, 48, 64, 96, 128."),
        ("demo --seed", "demo: --seed is given without a value."),
        ("demo a cat", "demo: 'a cat' is not understood."),
        ("edit", "edit: source is missing."),
        ("demo --s 1", "demo: ambiguous option: --s could match"),
    ],
)
def test_what_is_typed_wrongly_gets_one_sentence(line, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(shlex.split(line))
    said = capsys.readouterr().err
    assert ended.value.code == 2 and sentence in said and said.count("\n") == 1 and said.endswith("--help.\n")


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"sd-webui-accel {__version__}\n"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_of_a_command_is_explained(name):
    commands = next(action for action in cli.parser_of()[0]._actions if action.dest == "command")
    parser = commands.choices[name]
    assert [action.dest for action in parser._actions if not action.help] == []
    assert "u-net" not in parser.format_help()
    silent = [action.dest for action in parser._actions if action.default not in (None, "", [], False, "==SUPPRESS==")]
    assert [dest for dest in silent if not _tells_default(parser, dest)] == []


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
