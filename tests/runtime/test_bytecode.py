"""A full disk that cuts a module's bytecode short costs nothing but compiling it again."""

import os
import subprocess
import sys
from importlib.util import cache_from_source
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def imported(
    folder: Path, before: str = "from stages.runtime.environment import heal_bytecode; heal_bytecode(); "
) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); {before}import module; print(module.VALUE)"
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env = kept | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.99])
def test_bytecode_that_was_cut_short_is_made_again(tmp_path, share):
    source = tmp_path / "module.py"
    source.write_text("VALUE = [str(n) for n in range(3)]\n\n\ndef function(x):\n    return {x: x + 1, 'text': 1.5}\n")
    assert imported(tmp_path).stdout == "['0', '1', '2']\n"
    cached = Path(cache_from_source(str(source)))
    whole = cached.read_bytes()
    cached.write_bytes(whole[: max(17, int(share * len(whole)))])
    assert "EOFError" in imported(tmp_path, before="").stderr
    assert imported(tmp_path).stdout == "['0', '1', '2']\n"
    assert not cached.exists()
    assert imported(tmp_path).returncode == 0
    assert cached.read_bytes() == whole


def test_an_error_of_the_source_stays_what_it_is(tmp_path):
    (tmp_path / "module.py").write_text("VALUE = int('x')\n")
    assert "ValueError: invalid literal" in imported(tmp_path).stderr
    (tmp_path / "module.py").write_bytes(b"VALUE = '\0'\n")
    assert "null bytes" in imported(tmp_path).stderr
