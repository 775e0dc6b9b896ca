"""`python -m lib_accel check`: a dozen lines that can say FAILED."""

from lib_accel.cli.main import main
from lib_accel.engine.accelerator import Accelerator
from lib_accel.methods import METHODS


def test_the_sample_model_is_well(capsys):
    assert main(["check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "All is well." and len(lines) == len(METHODS) + 7
    assert any("TokenMerging: merging on 10 of 10 layers" in line for line in lines)
    assert any("TGate: cross-attention served on 10 of 10 layers, 1 of 2 rows left out" in line for line in lines)
    assert any("AgentAttention: agents on 10, merging on 10 of 10 layers" in line for line in lines)


def test_a_removal_that_leaves_something_fails(monkeypatch, capsys):
    remove = Accelerator.remove

    def careless(self):
        self.sites[0].block.left_behind = True
        remove(self)

    monkeypatch.setattr(Accelerator, "remove", careless)
    assert main(["check"]) == 1
    assert "FAILED  after removal" in capsys.readouterr().out


def test_what_is_no_model_gets_one_sentence(tmp_path, capsys):
    assert main(["check", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
