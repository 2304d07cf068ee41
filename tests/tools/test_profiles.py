"""Profiles and memory presets: valid, and changing only what they should."""

import json
import shutil
import tempfile

import pytest

from stages.core.params import Params, checks
from stages.datasets.unlearn_canvas import UnlearnCanvas
from stages.runtime.faults import ConfigFault
from stages.tools import profiles
from tests.datasets.test_dreambooth import ORDERS
from tests.datasets.test_unlearn_canvas import FROM_50

PLAIN = profiles.groups()[""]  # the others change these, and not what a preset changes
REAL = [name for name in PLAIN if profiles.tree(name)["base"]["name"] in ("sdxl", "sd15")]
WITH_PRESETS = [(name, memory) for name in PLAIN for memory in (None, *profiles.presets())]
EVERY = [*WITH_PRESETS, *((name, None) for name in profiles.names() if name not in PLAIN), ("sdxl-zoo", "24")]


@pytest.mark.parametrize(("name", "memory"), EVERY)
def test_every_profile_with_every_preset_is_valid(name, memory):
    """Only rules that need neither photos nor weights are checked, among them whether its family reads its options."""
    checks.check_family(Params.model_validate_json(json.dumps(profiles.tree(name, memory))))


@pytest.mark.parametrize("option", [{"conditioning": "source"}, {"layers": "peft"}])
def test_a_training_option_that_the_family_ignores_is_refused(option):
    study = Params.model_validate_json(json.dumps(profiles.tree("sd15-quick")))
    study = study.model_copy(update={"train": study.train.model_copy(update=option)})
    if "layers" in option:  # which sd15 reads
        checks.check_family(study)
        return
    message = r"^train\.conditioning: base sd15 does not read it, so it cannot be 'source'\. .* layers, snr_gamma\.$"
    with pytest.raises(ConfigFault, match=message):
        checks.check_family(study)


@pytest.mark.parametrize("name", REAL)
def test_a_preset_does_not_change_what_is_computed(name):
    plain = profiles.tree(name)
    for memory in profiles.presets():
        small = profiles.tree(name, memory)
        changed = {section for section in plain if plain[section] != small[section]}
        assert changed <= {"base", "sample", "train"}
        for key in ("path", "revision", "vae"):
            assert small["base"]["options"].get(key) == plain["base"]["options"].get(key)
        for key in ("images", "steps", "guidance", "seed"):
            assert small["sample"][key] == plain["sample"][key]
        for key in ("rank", "steps", "batch", "learning_rate"):
            assert small["train"][key] == plain["train"][key]


def test_the_profile_with_50_styles_uses_the_same_permutations_as_that_with_60():
    """Everything else is equal."""
    plain, other = profiles.tree("sdxl-styles"), profiles.tree("sdxl-styles-50")
    assert {section for section in plain if plain[section] != other[section]} == {"study", "dataset", "sequences"}
    assert other["dataset"] == {"name": "unlearn_canvas", "options": {"styles": 50}}
    assert list(other["sequences"]["styles"]) == ["0", "5", "10", "42"]
    for seed, permutation in ORDERS.items():
        listed = other["sequences"]["styles"][str(seed)]
        assert list(listed) == [f"t{position:02d}" for position in range(1, 11)]
        assert list(listed.values()) == [FROM_50[number - 1].lower() for number in permutation]
    assert "sdxl-styles-50" in profiles.names()
    known = UnlearnCanvas(root="", **other["dataset"]["options"]).domains()["styles"]
    assert all(set(listed.values()) == set(known) for listed in other["sequences"]["styles"].values())


def test_less_memory_never_means_larger_batches():
    batches = [profiles.tree("sdxl-objects", memory)["sample"]["batch"] for memory in profiles.presets()]
    assert batches == sorted(batches)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ConfigFault, match=r"unknown memory preset '7'\. There is: 12, 16, 24, 80"):
        profiles.text("sdxl-objects", "7")


def test_a_preset_in_use_is_not_a_change_by_the_user(tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "PARAMS", tmp_path / "params.yaml")
    monkeypatch.setattr(profiles, "WRITTEN", tmp_path / "profile.sha256")
    assert profiles.use("sdxl-quick", memory="24")
    assert not profiles.use("sdxl-quick", memory="24")
    assert profiles.use("quick")
    (tmp_path / "params.yaml").write_text("study: mine\n")
    with pytest.raises(ConfigFault, match="changes that are in no profile"):
        profiles.use("sdxl-quick", memory="24")


def test_a_profile_that_has_changed_is_not_a_change_by_the_user(tmp_path, monkeypatch):
    shutil.copytree(profiles.FOLDER, tmp_path / profiles.FOLDER)
    monkeypatch.chdir(tmp_path)
    assert profiles.use("quick")
    (profiles.FOLDER / "quick.yaml").write_text((profiles.FOLDER / "quick.yaml").read_text() + "# newer\n")
    changed = (profiles.FOLDER / "toy-objects.yaml").read_text().replace("steps: 120", "steps: 121")
    (profiles.FOLDER / "toy-objects.yaml").write_text(changed)
    assert profiles.use("quick")
    assert "steps: 121" in profiles.PARAMS.read_text()
    profiles.PARAMS.write_text(profiles.PARAMS.read_text().replace("steps: 121", "steps: 122"))
    with pytest.raises(ConfigFault, match="changes that are in no profile"):
        profiles.use("toy-styles")


def test_a_saved_params_yaml_is_a_profile_as_it_is_and_others_may_change_it(tmp_path, monkeypatch):
    shutil.copytree(profiles.FOLDER, tmp_path / profiles.FOLDER)
    monkeypatch.chdir(tmp_path)
    saved = profiles.text("quick").replace("  checkpoint_every: 50\n", "# mine\n")
    profiles.PARAMS.write_text(saved)
    with pytest.raises(ConfigFault, match=r"Save them as data/profiles/NAME\.yaml"):
        profiles.use("toy-styles")
    (profiles.FOLDER / "mine.yaml").write_text(saved)
    assert profiles.use("toy-styles")
    assert profiles.use("mine")
    assert profiles.PARAMS.read_text() == saved
    assert "checkpoint_every" not in profiles.tree("mine", "24")["train"]
    (profiles.FOLDER / "changed.yaml").write_text("# Mine, changed.\nfrom: mine\ntrain: {rank: 4}\n")
    changed = profiles.tree("changed")
    assert (changed["train"]["rank"], "checkpoint_every" in changed["train"]) == (4, False)


def test_a_profile_without_a_description_is_listed(tmp_path, monkeypatch):
    shutil.copytree(profiles.FOLDER, tmp_path / profiles.FOLDER)
    monkeypatch.chdir(tmp_path)
    for name, content in (("empty", b""), ("bare", b"study: bare\n"), ("latin", b"# caf\xe9\n")):
        (profiles.FOLDER / f"{name}.yaml").write_bytes(content)
    assert [profiles.summary(name) for name in ("empty", "bare", "latin")] == ["", "", "caf\ufffd"]


@pytest.mark.parametrize("name", profiles.names())
def test_a_profile_is_described_in_whole_sentences(name):
    assert profiles.summary(name).endswith((".", "?"))


def test_a_fault_in_a_profile_of_a_group_names_its_file_and_line(tmp_path, monkeypatch):
    shutil.copytree(profiles.FOLDER, tmp_path / profiles.FOLDER)
    monkeypatch.chdir(tmp_path)
    (profiles.FOLDER / "questions/wrong.yaml").write_text("# A wrong one.\ntrain: {rank: 0}\n")
    with pytest.raises(ConfigFault, match=r"^data/profiles/questions/wrong\.yaml:2: train\.rank: "):
        profiles.params("wrong")


@pytest.mark.parametrize("place", ["/proc", "/".join(["x" * 200] * 5), "missing"])
def test_a_temporary_folder_may_be_read_only_or_long(tmp_path, monkeypatch, place):
    folder = tmp_path / place
    if place.startswith("x"):
        folder.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)  # is looked for again
    assert profiles.params("toy-objects").study == "toy-objects"


@pytest.mark.parametrize("name", profiles.names())
def test_only_the_variants_of_a_study_of_its_own_are_in_it(name):
    tree = profiles.tree(name)
    for entry in tree["strategy"].keys() - set(tree["strategies"]):
        assert not {"is", "train"} & tree["strategy"][entry].keys()


def test_a_profile_with_a_learning_rate_of_its_own_drops_those_of_the_strategies():
    assert "learning_rate" in profiles.tree("confirm")["strategy"]["magmax"]["train"]
    for name in ("photos", "sdxl-objects", "sdxl-selection", "merging"):
        rates = {one: entry for one, entry in profiles.tree(name)["strategy"].items() if "is" not in entry}
        assert not [one for one, entry in rates.items() if "learning_rate" in entry.get("train", {})], name
