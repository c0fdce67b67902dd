"""Completion in a shell: the script knows every verb and option, and bash, where it is, completes with it."""

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from subquadratic.cli.main import VERBS, main
from subquadratic.training.options import TrainOptions

pytest.importorskip("shtab")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_knows_every_verb_and_every_option_of_train(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert set(VERBS) <= set(re.findall(r"\w+", script))
    for field in dataclasses.fields(TrainOptions):
        for name in {field.name, field.name.replace("_", "-")} if shell != "bash" else {field.name}:
            assert (f"-l {name} " if shell == "fish" else f"--{name}") in script, name


def test_another_shell_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "ksh"]) == 2
    assert "one of bash, zsh, fish" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("subq eval", ["evaluate"]),
        ("subq train --model per", ["performer", "perceiver_ar"]),
        ("subq train --max_", ["--max_steps"]),
        ("subq train --max-s", ["--max_steps"]),
        ("subq train --batch-size 4 --max-s", ["--max_steps"]),
        ("subq predict --max-new", ["--max_new_tokens"]),
        ("subq train --find-lr --causal f", ["false"]),
        ("subq tokenizer sh", ["show"]),
        ("subq pred", ["predict"]),
        ("subq predict --car", ["--carry"]),
        ("subq train --binning mu", ["mu_law"]),
        ("subq evaluate --format j", ["json"]),
    ],
)
def test_bash_completes(words: str, expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "subq.bash"
    script.write_text(capsys.readouterr().out)
    listed = " ".join(f"'{word}'" for word in words.split())
    asked = (
        f"source {script}; COMP_WORDS=({listed}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_LINE='{words}'; "
        'COMP_POINT=${#COMP_LINE}; $(complete -p subq | sed "s/.*-F \\([^ ]*\\).*/\\1/"); printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, timeout=60)
    assert [line.strip() for line in done.stdout.splitlines()] == expected, done.stderr


def test_it_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from subquadratic.cli.main import main; status = main(['completion', 'bash']); "
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules); sys.exit(status)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0
