"""Charts and contact sheets are drawn for every size of study, reproducibly, from the right numbers."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.core.params import Report
from stages.core.runs import runs
from stages.evaluation.results import OWN
from stages.evaluation.statistics import Verdict, judge
from stages.files.pictures import to_png
from stages.reporting import contact_sheets, figures
from stages.runtime.faults import InputFault
from tests.evaluation.test_statistics import noise, results_of
from tests.support import synthetic_study


def verdict(strategies: int = 2, tasks: int = 3) -> Verdict:
    values = noise(strategies, 1, tasks + 1, tasks, 4)
    for after in range(1, tasks):
        values[:, :, after, after:] = np.nan
    return judge(results_of(values, kinds=(OWN,)), Report(identity="m"))[0]


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("study"))
        params = synthetic_study.parameters(strategies=("naive", "merge_init", "magmax"))
        synthetic_study.write(params)
        yield params


def test_charts_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first = figures.draw_all(verdict(), tmp_path)
    second = figures.draw_all(verdict(), tmp_path / "again")
    assert [path.name for path in first] == [f"objects-m-{kind}.png" for kind in figures.CHARTS]
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()
        assert b"Software" not in one.read_bytes()


@pytest.mark.parametrize(("strategies", "tasks"), [(1, 1), (5, 2), (3, 7)])
def test_charts_of_other_sizes(strategies: int, tasks: int, tmp_path: Path) -> None:
    for path in figures.draw_all(verdict(strategies, tasks), tmp_path):
        with Image.open(path) as image:
            assert min(image.size) > 300, path.name


def test_a_heatmap_prints_every_known_cell_and_no_other() -> None:
    one = verdict(1, 3)
    axis = figures.heatmaps(one).axes[0]
    printed = [text.get_text() for text in axis.texts]
    matrix = one.matrices["a"]
    assert printed == [figures.in_cell(float(matrix.at(i, j))) for i, j in matrix.cells()]
    assert len(printed) == 3 + 1 + 2 + 3


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.534, ".53"), (-0.07, "−.07"), (0.999, "1.0"), (-1.26, "−1.2"), (-0.001, ".00"), (0.0, ".00"), (2.5, "2.5")],
)
def test_numbers_fit_their_cells(value: float, text: str) -> None:
    assert figures.in_cell(value) == text


def test_names_at_the_ends_of_lines_do_not_overlap() -> None:
    heights = figures.spread([0.5, 0.51, 0.52, 0.9], 0.1)
    assert np.diff(heights).min() > 0.099
    assert np.mean(heights[:3]) == pytest.approx(0.51, abs=0.02)
    assert heights[3] == 0.9


def test_a_sheet_shows_the_right_pictures(params) -> None:
    run = runs(params)[0]
    sheet = np.asarray(contact_sheets.sheet(params, run))
    cell = synthetic_study.SIZE * 6
    first = Image.open(run.at("03") / "images" / "01" / "00-00.png")
    expected = np.asarray(first.resize((cell, cell), Image.Resampling.NEAREST))
    right, top = sheet.shape[1] - contact_sheets.EDGE - cell, contact_sheets.HEAD
    assert (sheet[top : top + cell, right : right + cell] == expected).all()
    reference = np.asarray(Image.fromarray(synthetic_study.reference("red_mug")))[0, 0]
    assert (sheet[top + 10, contact_sheets.EDGE + contact_sheets.LABEL + 10] == reference).all()


def test_a_sheet_is_empty_before_a_concept_is_learned(params) -> None:
    sheet = np.asarray(contact_sheets.sheet(params, runs(params)[0]))
    cell = synthetic_study.SIZE * 6
    step = cell + contact_sheets.GAP
    x, y = (
        sheet.shape[1] - contact_sheets.EDGE - 3 * step + contact_sheets.GAP + cell // 2,
        contact_sheets.HEAD + 2 * step + cell // 2,
    )
    assert sheet[y, x].tolist() == [245, 246, 248]


def test_sheets_are_the_same_bytes_each_time(params, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first, second = contact_sheets.draw_all(params, tmp_path), contact_sheets.draw_all(params, tmp_path / "again")
    names = [f"objects-0-{s}-0.png" for s in params.strategies]
    assert [path.name for path in first] == [*names, "objects-side-by-side.png"]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_side_by_side_has_a_row_for_each_strategy(params) -> None:
    few, all_ = (contact_sheets.side_by_side(params, runs(params)[:count]) for count in (1, 3))
    assert all_.height - few.height == 2 * (synthetic_study.SIZE * 6 + contact_sheets.GAP)


def test_a_damaged_picture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = synthetic_study.parameters()
    synthetic_study.write(params)
    run = runs(params)[1]
    path = run.at("02") / "images" / "01" / "00-00.png"
    path.write_bytes(to_png(Image.new("RGB", (16, 16))))
    with pytest.raises(InputFault, match="missing or damaged"):
        contact_sheets.sheet(params, run)
    path.unlink()
    with pytest.raises(InputFault, match="missing or damaged"):
        contact_sheets.side_by_side(params, [run])


@pytest.mark.parametrize(
    ("task", "tasks", "expected"),
    [(1, 10, [1, 4, 7, 10]), (2, 10, [2, 5, 7, 10]), (1, 2, [1, 2]), (3, 5, [3, 4, 5]), (4, 4, [4])],
)
def test_milestones_run_from_learning_to_the_end(task: int, tasks: int, expected: list[int]) -> None:
    assert contact_sheets.milestones(task, tasks) == expected


def test_text_is_wrapped_and_shortened_to_its_width() -> None:
    lines = contact_sheets.wrap("a photo of a thing with anextraordinarilylongnamethatdoesnotfit", 12, 90)
    assert len(lines) > 2
    assert all(contact_sheets.font(12).getlength(line) <= 90 for line in lines)
    assert lines[-1].endswith("…")


@pytest.mark.parametrize(("size", "cell"), [(16, 96), (32, 96), (64, 128), (96, 96), (128, 128), (1024, 160)])
def test_pictures_are_enlarged_by_whole_factors_up_to_a_limit(size: int, cell: int) -> None:
    assert contact_sheets.cell_of(Image.new("RGB", (size, size))) == cell


def test_enlarged_pixels_stay_sharp() -> None:
    small = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
    canvas = contact_sheets.Canvas(96, 96, 96)
    canvas.put(0, 0, small)
    back = canvas.image.resize((16, 16), Image.Resampling.NEAREST)
    assert np.asarray(back).tobytes() == np.asarray(small).tobytes()
