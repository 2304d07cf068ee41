"""The surroundings of a command: switches of Python, proxies, git's variables, closed or odd streams, wrong values."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.engine.order.slots import slots
from flows.platform.serve import port_number
from stages.runtime import device, exits
from stages.runtime.environment import GIT, OURS, PREFIX, SWITCHES, integer
from stages.runtime.faults import ConfigFault
from stages.runtime.process import cause_of

ROOT = Path(__file__).parents[2]
ATTEMPT = "import os, sys\nfrom stages.runtime.exits import attempt\n"


def python(code: str, cwd: Path = ROOT, shell: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a process that has nothing slow to import; `shell`: redirections."""
    plain = {k: v for k, v in os.environ.items() if k not in SWITCHES} | {"PYTHONPATH": str(ROOT)} | environment
    words = ["bash", "-c", f'exec "$0" "$@" {shell}', sys.executable, "-c", ATTEMPT + code]
    return subprocess.run(words, cwd=cwd, env=plain, capture_output=True, text=True, timeout=60)


def test_switches_of_python_and_variables_of_git_end_here(tmp_path):
    given = {name: "1" for name in SWITCHES} | {name: "/nowhere" for name in GIT} | {"PYTHONWARNINGS": "error"}
    del given["PYTHONINSPECT"]  # with it, this process would end in a prompt, as asked for
    code = "import warnings\ndef f():\n warnings.warn('x')\n print(sorted(os.environ))\nsys.exit(attempt(f))"
    done = python(code, tmp_path, **given)
    assert done.returncode == 0, done.stderr
    assert not {*SWITCHES, *GIT} & {*eval(done.stdout)}


def test_another_code_than_the_projects_is_refused(tmp_path):
    own = tmp_path / "stages/runtime/environment.py"
    own.parent.mkdir(parents=True)
    own.write_text("")
    code = "from stages.runtime.environment import check_code\nsys.exit(attempt(check_code))"
    done = python(code, tmp_path, PYTHONSAFEPATH="1")
    assert (done.returncode, done.stderr) == (
        2,
        "error: PYTHONSAFEPATH: Python runs other code than this project's own. Unset it.\n",
    )
    assert python(code, ROOT, PYTHONSAFEPATH="1").returncode == 0


def test_a_project_runs_its_own_code_once_whatever_python_is_told(tmp_path):
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows/__init__.py").touch()
    (tmp_path / "flows/cli.py").write_text("import sys; print('own', sys.argv[1:])")
    (tmp_path / "palimpsest").mkdir()
    (tmp_path / "palimpsest/trusted").write_text(f"{tmp_path.resolve()}\n")
    code = "import flows.cli\nsys.argv = ['palimpsest', 'status']\nflows.cli.main()"
    done = python(code, tmp_path, PYTHONSAFEPATH="1", XDG_CONFIG_HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "own ['status']\n"), done.stderr


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"http_proxy": "http://127.0.0.1:9"}, "127.0.0.1,localhost,::1"),
        ({"HTTPS_PROXY": "http://x:1", "NO_PROXY": "example.org,localhost"}, "example.org,localhost,127.0.0.1,::1"),
        ({"all_proxy": "socks5://x:1", "no_proxy": "a"}, "a,127.0.0.1,localhost,::1"),
        ({}, None),
    ],
)
def test_loopback_bypasses_proxies(given, expected):
    unset = {name: "" for name in ("http_proxy", "HTTPS_PROXY", "all_proxy", "no_proxy", "NO_PROXY")}
    code = "".join(f"os.environ.pop({name!r})\n" for name in unset) + f"os.environ.update({given!r})\n"
    code += "attempt(lambda: print([os.environ.get('no_proxy'), os.environ.get('NO_PROXY')]))"
    done = python(code, **unset)
    assert eval(done.stdout) == [expected, expected]


def test_closed_streams_are_not_given_to_files(tmp_path):
    code = """
def f():
    with open("data", "w") as file:
        print("not for the file"); print("nor this", file=sys.stderr); os.write(1, b"x"); sys.stdin.read()
        assert file.fileno() > 2, file.fileno()
sys.exit(attempt(f))"""
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        done = python(code, tmp_path, closed)
        assert done.returncode == 0, (closed, done.stderr)
        assert (tmp_path / "data").read_text() == ""


def test_characters_that_cannot_be_shown_become_escapes():
    done = python("sys.exit(attempt(lambda: print('a → é')))", PYTHONIOENCODING="ascii:strict")
    assert (done.returncode, done.stdout) == (0, "a \\u2192 \\xe9\n")


def test_a_reader_that_ends_ends_the_command_quietly():
    code = "sys.exit(attempt(lambda: [print('x' * 1000) for _ in range(1000)] and None))"
    done = python(code, shell="2>&1 > >(head -1 >/dev/null)")
    assert (done.returncode, done.stdout) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux")
def test_a_full_disk_at_the_output_is_the_machines_fault():
    done = python("sys.exit(attempt(lambda: print('x')))", shell=">/dev/full")
    assert done.returncode == 4
    assert done.stderr.startswith("error: this machine: No space left on device.")
    assert done.stderr.count("\n") == 1


def test_a_variable_that_only_looks_like_ours_is_refused():
    done = python("sys.exit(attempt(lambda: print('ran')))", PALIMPSEST_JOB="2")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "error: PALIMPSEST_JOB: is not a variable of Palimpsest's. Did you mean 'PALIMPSEST_JOBS'?"
    )
    assert done.stderr.count("\n") == 1


def test_every_variable_that_the_code_names_is_known():
    files = [path for room in ("stages", "flows", "tests", "docs") for path in (ROOT / room).rglob("*.[pm][yd]")]
    named = {name for path in files for name in re.findall(rf"\b{PREFIX}(\w+)", path.read_text("utf-8"))}
    assert named - {"JOB"} == {*OURS}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux")
@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(
    ("error", "code"), [("ConfigFault('x')", 2), ("KeyError('x')", 70), ("OSError(28, 'full')", 4)]
)
def test_an_error_that_cannot_be_printed_keeps_its_exit_code(tmp_path, error, code, debug):
    script = f"from stages.runtime.faults import ConfigFault\ndef f():\n raise {error}\nsys.exit(attempt(f, {debug}))"
    for ci in ("", "true"):  # where CI is set, a bug's traceback is printed as well
        assert python(script, tmp_path, shell="2>/dev/full", CI=ci).returncode == code


@pytest.mark.parametrize("text", ["abc", "-3", "1.5", "0x1", "٣", "1e3", "9" * 5000])
def test_numbers_of_the_environment_are_checked(monkeypatch, text):
    for name, read in (
        ("PALIMPSEST_JOBS", lambda: slots(None, "")),
        ("PALIMPSEST_THREADS", device.device.__wrapped__),
        ("PALIMPSEST_EXACT", device.device.__wrapped__),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, text)
            with pytest.raises(ConfigFault, match=rf"^{name}: '.*' is not a whole number from [01] (on|to 1)"):
                read()
    monkeypatch.setenv("NUMBER", " 7 ")
    assert (integer("NUMBER", 1, 1), integer("OTHER_NUMBER", 1, 1)) == (7, 1)


def test_impossible_devices_and_jobs_are_refused(monkeypatch):
    for name, message in (("abc", "torch has no device 'abc'"), ("cuda:7", "torch sees 0 GPUs")):
        monkeypatch.setenv("PALIMPSEST_DEVICE", name)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
        with pytest.raises(ConfigFault, match=f"^PALIMPSEST_DEVICE: .*{message}"):
            device.device.__wrapped__()
    with pytest.raises(ConfigFault, match=r"^--jobs -2: must be at least 1"):
        slots(-2, "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DEVICE", "banana"),
        ("EXACT", "2"),
        ("INSTRUCTIONS", "avx512"),
        ("JOBS", "x"),
        ("THREADS", "0"),
        ("TOGETHER", "x"),
    ],
)
def test_every_command_refuses_an_impossible_value_before_it_begins(name, value):
    done = python("sys.exit(attempt(lambda: print('ran')))", **{PREFIX + name: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"error: {PREFIX}{name}: [^\n]*'{value}'[^\n]*\n", done.stderr)


def test_ports_are_checked():
    assert port_number("65535") == 65535
    for text in ("0", "65536", "99999", "-1", "x", ""):
        with pytest.raises(Exception, match="is not a port"):
            port_number(text)


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        ("fatal: not a repo\nhint: do this\n", "fatal: not a repo"),
        ("Initialised.\nERROR: cannot init\nHaving trouble? Visit x", "ERROR: cannot init"),
        ("Traceback (most recent call last):\n  File x\nKeyError: 1\n\nValueError: zone\n! done", "ValueError: zone"),
        ("first\nsecond", "first"),
        ("", "no output"),
    ],
)
def test_the_cause_of_a_failure_is_quoted(output, cause):
    assert cause_of(output) == cause


def test_a_full_disk_without_a_path_names_the_folder_whose_disk_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    free = {str(tmp_path): 1 << 30}
    monkeypatch.setattr(exits.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free.get(folder, 1 << 30)))
    assert str(exits.machine_fault(OSError(errno.ENOSPC, "full"))).startswith("this machine: full.")
    free[str(tmp_path)] = 1000
    assert str(exits.machine_fault(OSError(errno.ENOSPC, "full"))).startswith(f"{tmp_path}: full.")
    assert str(exits.machine_fault(OSError(errno.EIO, "broken"))).startswith("this machine: broken.")
    assert str(exits.machine_fault(OSError(errno.ENOSPC, "full", "/there"))).startswith("/there: full.")
