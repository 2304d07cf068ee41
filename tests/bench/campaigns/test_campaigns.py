"""Campaigns of a few trials, and what they do if a trial goes wrong."""

import argparse
import random
import sys
import time

import pytest

from tests.bench.campaigns import campaign, corruption, disk, fuzz, kills, races
from tests.bench.campaigns.campaign import Trial


def test_a_campaign_reports_wrong_trials_and_how_to_repeat_them(capsys):
    with pytest.raises(SystemExit) as end:
        campaign.run(argparse.Namespace(first=5, count=3), lambda n: Trial("kind", f"r{n % 2}", n != 6, "why"))
    printed = capsys.readouterr().out
    assert end.value.code == 1
    assert "WRONG, trial 6: kind: r0: why" in printed
    assert "| kind | r1 | 2 |" in printed
    assert "3 trials from 5 on: 1 wrong" in printed


def test_a_trial_may_have_several_results(capsys):
    with pytest.raises(SystemExit) as end:
        campaign.run(argparse.Namespace(first=0, count=2), lambda n: [Trial("a", "x"), Trial("b", "y", n == 0, "why")])
    printed = capsys.readouterr().out
    assert end.value.code == 1
    assert "| a | x | 2 |" in printed
    assert printed.count("WRONG") == 1


@pytest.mark.parametrize("number", range(0, 60, 3))
def test_hostile_input_is_read_or_refused(number):
    trial = fuzz.one(number, list(fuzz.SHARES))
    assert trial.good, trial.detail
    assert trial == fuzz.one(number, list(fuzz.SHARES))  # follows from the number alone


def test_a_command_is_killed_after_a_time_or_a_number_of_stages(tmp_path, monkeypatch):
    code = (
        "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
        "for n in (1, 2): print(f'[{n}/3] s{n}: 1.0 s', flush=True)\ntime.sleep(600)"
    )
    sleep = time.sleep
    # Not before it waits: what has ended by then does not count.
    monkeypatch.setattr(time, "sleep", lambda seconds: ((tmp_path / "go").touch(), sleep(seconds)))
    command = kills.Command(tmp_path, (sys.executable, "-c", code))
    command.wait(600, 2)
    assert command.stages == 2
    command.wait(0.1, 1)
    command.process.kill()
    assert command.end() == -9
    assert kills.ENDED.findall(command.output) == ["s1", "s2"]
    assert command.first > 0


@pytest.mark.parametrize("seed", range(10))
def test_damage_keeps_what_a_cache_of_hashes_looks_at(tmp_path, seed):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 40)
    path.chmod(0o444)
    before, content = path.stat(), path.read_bytes()
    how = corruption.damage(path, random.Random(seed))
    assert bool(how) == (path.read_bytes() != content)
    assert (path.stat().st_mtime_ns, path.stat().st_mode) == (before.st_mtime_ns, before.st_mode)


@pytest.mark.parametrize("module", [kills, fuzz, corruption, disk, races], ids=lambda module: module.__name__)
def test_every_campaign_has_a_size_and_a_first_trial(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module.__name__, "--help"])
    with pytest.raises(SystemExit) as end:
        module.main()
    assert not end.value.code
    assert {"--count", "--first"} <= set(capsys.readouterr().out.split())
