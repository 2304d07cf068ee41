import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from stages.core.params import load
from stages.core.training import Train
from stages.families.toy import Toy
from stages.runtime.faults import ConfigFault
from stages.runtime.strict import explain

PARAMS = Path("params.yaml").read_text("utf-8")


def fault(tmp_path, old: str, new: str) -> str:
    assert old in PARAMS, old
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.replace(old, new, 1), "utf-8")
    with pytest.raises(ConfigFault) as caught:
        load(path)
    text = str(caught.value)
    assert "\n" not in text
    assert re.match(rf"{re.escape(str(path))}:\d+: ", text), text
    return text.removeprefix(str(path))


def line_of(text: str) -> int:
    return PARAMS[: PARAMS.index(text)].count("\n") + 1


def test_the_projects_own_parameters_are_valid():
    params = load()
    assert [task.index for task in params.tasks] == [f"{i:02d}" for i in range(1, len(params.tasks) + 1)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  rank: 16", "  rnak: 8", r"unknown key 'train.rnak'. Did you mean 'rank'\?"),
        ("  rank: 16", "  rank: 0", "train.rank: .* greater than or equal to 1, found 0"),
        ("  rank: 16", "  rank: 4.5", "train.rank: .* valid integer, found 4.5"),
        ("  rank: 16", "  rank: '8'", "train.rank: .* valid integer, found '8'"),
        ("  rank: 16", "  rank: 100", "train.rank: 100 is more than the width of "),
        ("  rank: 16\n", "  rank: 16\n  rank: 8\n", 'found duplicate key "rank"'),
        ("  learning_rate: ", "  learning_rate: -", "train.learning_rate: .* greater than 0"),
        ("reinit: shared", "reinit: shred", "train.reinit: .*'shared' or 'per_task'"),
        ("strategies: [naive,", "strategies: [naife,", "no strategy is called 'naife'. Did you mean 'naive'"),
        (
            "  magmax: {scale: 1.0",
            "  magmax: {scael: 1.0",
            "strategy.magmax: strategy magmax: unknown key 'scael'. Did you mean 'scale'",
        ),
        ("init: columns", "init: row_space", "strategy.ortho_init: strategy ortho_init: init: row_space needs merging"),
        ("scheduler: dpmpp", "schedulers: {naife: dpmpp}", "sample.schedulers: .*'naife'. Did you mean 'naive'"),
        (
            "scheduler: dpmpp",
            "scheduler: eulr",
            "sample.scheduler: base toy has no .*'eulr'. Did you mean 'euler'",
        ),
        (
            "scheduler: dpmpp",
            "schedulers: {naive: flow}",
            r"sample.schedulers.naive: base toy has no scheduler 'flow'. There is: dpmpp, euler\.",
        ),
        ("dtype: float32", "compile: block", "compile: must be true, false or blocks, found 'block'"),
        ("guidance: 2.0", "guidance: 1.0\n  guided: 0.5", "guided: guidance is 1, which is none"),
        ("guidance: 2.0", "guidance: 2.0\n  guided: 0.0", "guided: .*greater than 0"),
        ("guidance: 2.0", "guidance: 2.0\n  guided: 1.5", "guided: .*less than or equal to 1"),
        ("    dino: {path", "    dyno: {path", "no metric is called 'dyno'. Did you mean 'dino'"),
        (
            "    dino: {path",
            "    other: {is: dyno, path",
            "score.metrics.other: no metric is called 'dyno'",
        ),
        (
            "    dino: {path",
            "    other: {is: 3, path",
            "score.metrics.other: 'is' must be the name of a metric, found 3",
        ),
        ("    dino: {path", "    other: {is: dino, pth", "score.metrics.other: metric dino: unknown key 'pth'"),
        (
            "identity: dino",
            "identity: clip_t",
            "identity: 'clip_t' cannot tell concepts apart: .*clip_i, csd, dino",
        ),
        ("identity: dino", "identity: dine", "'dine' is not in score.metrics. Did you mean 'dino'"),
        ("domains: [objects]", "domains: [objets]", "has no domain 'objets'. Did you mean 'objects'"),
        ("name: toy\n  options: {}", "name: toi\n  options: {}", "no dataset is called 'toi'. Did you mean 'toy'"),
        ("t01: ofl_fish", "t01: ofl_triangel", "no concept 'ofl_triangel'. Did you mean 'ofl_fish'"),
        ("t01: ofl_fish", "t01: psq_unicorn", "psq_unicorn is at two positions"),
        ("      t10: zsn_dress\n", "", "no concept for t10"),
        ("index: '02', previous: '01'", "index: '02', previous: '03'", "position 02 follows 03, expected 02 after 01"),
        ("sees: data/02", "sees: data/03", "must be data/02 or data"),
        ("t10: zsn_dress", "tO0: zsn_dress", r"objects.0.tO0: is no position. Positions are t01, t02 and so on"),
        ("t10: zsn_dress", "t10: zsn_dress\n      t11: zsn_dres", r"objects.0.t11: .*'zsn_dres'. Did you mean"),
        ("seeds: [0]", "seeds: [0, 1, 0]", r"seeds: must not list 0 twice, found \[0, 1, 0\]"),
        ("seeds: [0]", "seeds: [2147483648]", "seeds.0: .*less than 2147483648"),
        ("seeds: [0]", "seeds: [-2147483649]", "seeds.0: .*greater than or equal to -2147483648"),
        ("orders: ['0']", "orders: ['0', '0']", "orders: must not list 0 twice"),
        ("domains: [objects]", "domains: [objects, objects]", "domains: must not list objects twice"),
        ("strategies: [naive,", "strategies: [naive, joint,", "section strategy has no joint. Add `joint: {}` to it"),
        ("strategies: [naive,", "strategies: [naive, naive,", "strategies: must not list naive twice"),
        ("  magmax: {scale", "  base: {is: naive}\n  magmax: {scale", "strategy.base: results have a base that is no"),
        ("  magmax: {scale", "  ceiling: {is: naive}\n  magmax: {scale", "strategy.ceiling: .*Rename the variant"),
        ("  magmax: {scale", "  data: {is: naive}\n  magmax: {scale", "strategy.data: .*Rename the variant"),
        (
            "magmax: {scale: 1.0",
            "magmax: {rehearse: {prompts: generic, captions: [a photo of PSQ Unicorn]}, scale: 1.0",
            "strategy.magmax.rehearse.captions: 'a photo of PSQ Unicorn' has the word of psq_unicorn. Rehearse",
        ),
        ("  rank: 16", "  rank: 16\n  betas: [0.9, 1.0]", "train.betas.1: .*less than 1, found 1.0"),
        ("seeds: [0]", "seeds: &s [0]", "anchors and aliases"),
        ("seeds: [0]", "seeds: !!python/object/apply:os.system ['true']", "tags such as"),
        ("seeds: [0]", "seeds: [0", "expected"),
        (
            "name: toy\n  options: {}",
            "name: toy\n  options: {root: x}",
            "options.root: set `source` instead",
        ),
        ("    dino: {path: dino", "    dino: {path: ../dino", "score.metrics.dino: path: leads out of score.judges"),
        ("seeds: [0]", "seeds: [.nan]", "nan is not a finite number"),
        ("seeds: [0]", "seeds: [0x" + "f" * 20 + "]", "a number with more than 63 bits"),
        ("study: toy-objects", "study: ../escape", "study: .*pattern"),
        ("study: toy-objects", "study: 2026-01-01", "values are not allowed here. Quote it"),
        ("sample:\n", "smaple:\n", "unknown key 'smaple'. Did you mean 'sample'|'sample' is missing"),
    ],
)
def test_an_error_is_one_line_with_file_line_and_remedy(tmp_path, old, new, message):
    assert re.search(message, fault(tmp_path, old, new))


def test_a_base_that_cannot_end_guidance_early_refuses_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Toy, "sampling_options", frozenset())
    message = fault(tmp_path, "guidance: 2.0", "guidance: 2.0\n  guided: 0.5")
    assert "sample.guided: base toy does not read it, so it cannot be 0.5. Remove it; of such options" in message


def test_a_setting_that_is_not_set_is_not_in_records():
    sample = load().sample
    assert "guided" not in sample.model_dump(mode="json")
    assert sample.further == {}
    shorter = sample.model_copy(update={"guided": 0.5})
    assert shorter.model_dump(mode="json")["guided"] == shorter.further["guided"] == 0.5


def test_the_message_names_the_line_of_the_error(tmp_path):
    assert fault(tmp_path, "  rank: 16", "  rank: 0").startswith(f":{line_of('  rank: 16')}:")
    assert fault(tmp_path, "t01: ofl_fish", "t01: nothing").startswith(f":{line_of('      t01')}:")


def test_scientific_notation_is_a_number(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(re.sub(r"learning_rate: \S+", "learning_rate: 1e-4", PARAMS, count=1), "utf-8")
    assert load(path).train.learning_rate == 1e-4


def test_one_metric_class_can_have_two_keys(tmp_path):
    path, dino = tmp_path / "params.yaml", "    dino: {path: dino, resize: 64}\n"
    assert dino in PARAMS
    path.write_text(PARAMS.replace(dino, dino + "    large_dino: {is: dino, path: dino, resize: 96}\n"), "utf-8")
    judges = load(path).judges
    assert type(judges["large_dino"]) is type(judges["dino"])
    assert (judges["dino"].resize, judges["large_dino"].resize) == (64, 96)
    assert judges["dino"].path == judges["large_dino"].path == "data/world/judges/dino"
    assert judges["dino"].encoder != judges["large_dino"].encoder


def test_a_missing_file_is_a_config_fault(tmp_path):
    with pytest.raises(ConfigFault, match="No such file"):
        load(tmp_path / "params.yaml")


def test_an_alias_bomb_is_refused_at_once(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(
        "a: &a [x, x]\n"
        + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20))
    )
    with pytest.raises(ConfigFault, match="anchors"):
        load(path)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("strategies: [naive", "strategies: [naiv", "strategies: "),  # not section `strategy`, which has no such entry
        ("magmax: {scale: 1.0", "magmax: {scal: 1.0", "  magmax: "),
        ("orders: ['0']", "orders: ['1']", "orders: "),
        ("domains: [objects]", "domains: [objcts]", "domains: "),
        ("    dtype: float32", "    dtype: float33", "    dtype: "),
        ("    dtype: float32", "    pixls: 32", "    pixls: "),
        ("csd: {path: csd}", "csd: {paht: csd}", "    csd: "),
        ("t02: psq_unicorn", "t02: psq_unicrn", "      t02: "),
        ("  rank: 16", "  rnk: 16", "  rnk: "),
    ],
)
def test_an_error_points_at_the_line_that_the_user_wrote(tmp_path, old, new, line):
    lines = Path("params.yaml").read_text("utf-8").replace(old, new).splitlines()
    (number,) = (i for i, text in enumerate(lines, 1) if text.startswith(line) and new.split(" #")[0].strip() in text)
    assert fault(tmp_path, old, new).startswith(f":{number}: ")


def test_alpha_follows_the_rank_in_a_sweep_of_ranks():
    tree = load().train.model_dump(mode="json")
    for rank in (4, 16):
        train = Train.model_validate_json(json.dumps(tree | {"alpha": "rank", "rank": rank}))
        assert (train.alpha, train.alpha_number) == ("rank", rank)
        assert Train.model_validate_json(train.model_dump_json()) == train
    for wrong in (0, -1, "ranks", "8", True, None):
        with pytest.raises(ValidationError) as caught:
            Train.model_validate_json(json.dumps(tree | {"alpha": wrong}))
        assert explain(caught.value, Train).startswith("alpha: must be a number above 0, or rank, found ")
