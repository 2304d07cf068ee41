"""The benchmarks run, and their peers agree, which each of them checks before timing."""

import json
import random
import re
import subprocess
import sys

import pytest

from tests.bench import first_hour, rehearsal, sampling, scoring, training
from tests.bench.blocks import ratio
from tests.bench.chains import checkpoints
from tests.bench.gpu import page
from tests.support.workspace import environment

SHALLOW = (1, 1, 1)  # transformer blocks of an attention: 11 in all in place of 70, which are run by the same code


def printed(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", *words], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("rounds", "covered"), [(5, 0.93), (6, 0.96), (9, 0.96), (17, 0.95)])
def test_the_interval_of_a_ratio_covers_it(rounds, covered):
    """Of times with rare long ones, on a machine that is at times slower; binomial, so exact up to the draws."""
    rng, hits, trials = random.Random(0), 0, 2000
    for _ in range(trials):
        drift = [rng.lognormvariate(0, 0.2) for _ in range(rounds)]
        fast, slow = (
            [factor * one * (1 + rng.expovariate(50) * rng.choice([1, 1, 1, 9])) for one in drift]
            for factor in (1.0, 1.03)
        )
        middle, low, high = ratio(slow, fast)
        assert low <= middle <= high
        hits += low <= 1.03 <= high
    assert hits / trials > covered - 0.015  # three standard errors of the simulation


def test_what_slows_both_does_not_change_their_ratio():
    fast = [1.0, 3.0, 1.5, 9.0, 1.0, 1.1, 1.2]
    assert ratio([2 * one for one in fast], fast) == (2, 2, 2)
    assert ratio([1.0], [2.0]) == (0.5, 0.5, 0.5)


@pytest.fixture
def printed_here(monkeypatch, capsys):
    """A function that runs a benchmark in this process and returns its output."""

    def printed_here(module, *words: str) -> str:
        monkeypatch.setattr(sys, "argv", [module.__name__, *words])
        module.main()
        return capsys.readouterr().out

    return printed_here


def test_merging_against_the_published_implementation():
    output = printed("tests.bench.merging", "--blocks", "1", "--scale", "2000", "--columns", "8")
    assert output.count("one SVD per column") == 3
    assert "whole state dicts" in output


@pytest.mark.slow
def test_scoring_against_the_reference(printed_here):
    sizes = ("--images", "2", "--references", "2", "--concepts", "2", "--sizes", "tiny")
    assert printed_here(scoring, "--blocks", "1", *sizes).count("scores differ by") == 2


@pytest.mark.slow
def test_sampling_against_the_reference(printed_here, monkeypatch):
    monkeypatch.setattr(sampling, "DEPTHS", SHALLOW)
    assert "of 255" in printed_here(sampling, "--blocks", "1", "--images", "1", "--steps", "2")


@pytest.mark.slow
def test_a_training_step_against_the_plain_loops(printed_here, monkeypatch):
    monkeypatch.setattr(training, "DEPTHS", SHALLOW)
    output = printed_here(training, "--rounds", "1", "--steps", "1", "--width", "16")
    assert "3 steps agree" in output
    for peer in ("plain", "checkpointing", "cached", "ours"):
        assert f"\n{peer} " in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "size", "tables"), [("swap", ("--width", "16"), 1), ("together", ("--steps", "1"), 1)]
)
def test_chains_write_results_that_the_page_shows(module, size, tables, tmp_path):
    out = tmp_path / "results.json"
    printed(f"tests.bench.chains.{module}", "--rounds", "1", *size, "--json", str(out))
    facts = json.loads(out.read_text("utf-8"))
    assert len(facts["tables"]) == tables
    assert all(table["caption"] in page.page([facts]) for table in facts["tables"])


def test_a_training_with_checkpoints_beside_one_without(printed_here, monkeypatch):
    monkeypatch.setattr(training, "DEPTHS", SHALLOW)
    output = printed_here(checkpoints, "--rounds", "1", "--steps", "20", "--width", "16", "--rank", "4")
    assert "4 trainings agree" in output
    for way, saved in (("none", 0), ("always", 1)):
        assert re.search(rf"^{way} +{saved} checkpoints ", output, re.MULTILINE)
    assert re.search(r"^ours +[01] checkpoints ", output, re.MULTILINE)


def test_a_step_with_rehearsal_beside_a_plain_one(printed_here):
    output = printed_here(rehearsal, "--rounds", "1", "--steps", "1")
    assert "3 steps agree" in output
    for peer in ("plain", "rehearsal", "each", "apart"):
        assert f"\n{peer} " in output


def test_the_first_hour_draws_photos_and_stores_the_output_of_each_step(tmp_path, monkeypatch):
    monkeypatch.delenv("PALIMPSEST_DREAMBOOTH", raising=False)
    first_hour.photos(tmp_path)
    assert len(list(tmp_path.glob("things/*/*.jpg"))) == 2 * first_hour.PHOTOS
    assert len(list(tmp_path.glob("later/*/*.jpg"))) == first_hour.PHOTOS
    env = first_hour.environment(tmp_path, here=True)
    for command, code, last in (
        (["doctor", "--help"], 0, "exit."),
        (["docter"], 2, "Did you mean 'doctor'? See palimpsest --help."),
    ):
        step = first_hour.Step("look", ["palimpsest", *command], tmp_path)
        result = first_hour.run(step, env, tmp_path / "output.txt")
        assert (result.code, result.last_line.endswith(last)) == (code, True)
        assert result.last_line in (tmp_path / "output.txt").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(("words", "rows"), [([], [3, 3, 4, 2, 2]), (["--tuned"], [5, 5, 5, 5])])
def test_ways_to_compute_a_block_agree(tmp_path, words, rows):
    output = printed("tests.bench.variants", "--size", "hundredth", "--json", str(tmp_path / "variants.json"), *words)
    tables = json.loads((tmp_path / "variants.json").read_text("utf-8"))["tables"]
    assert [len(table["rows"]) for table in tables] == rows
    assert all(table["caption"] in output for table in tables)
