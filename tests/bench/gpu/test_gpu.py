"""The benchmark at full size, at a hundredth of it: that it runs through where parts of the model move, says what is
wrong, and ends in time."""

import logging

import pytest
import torch
from PIL import Image

from stages.runtime.device import device
from stages.training.cuda_graph import Recorder, Replay
from tests.bench.gpu import __main__, notes, peers, sampling, training
from tests.bench.gpu import bench as full
from tests.bench.gpu.random_sdxl import Standin


@pytest.fixture
def heard(tmp_path):
    with notes.Notes(tmp_path / "said.txt").listening() as found:
        yield found


def solid(level: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (level,) * 3)


@pytest.mark.slow
def test_it_runs_through_where_training_moves_the_autoencoder_away(tmp_path, monkeypatch, capsys):
    """Another number format plays another device."""
    moves = []

    def only_on_device(self, *parts: str) -> None:
        if "vae" not in parts:
            moves.append("away")
            self.pipeline.vae.double()

    def to_device(self, *parts: str) -> None:
        for part in parts:
            getattr(self.pipeline, part).float()

    monkeypatch.setattr(Standin, "only_on_device", only_on_device)
    monkeypatch.setattr(Standin, "to_device", to_device)
    code = __main__.main(["--size", "hundredth", "--blocks", "1", "--out", str(tmp_path / "said.txt")])
    said = capsys.readouterr().out
    assert code == 0, said
    assert (tmp_path / "said.txt").read_text("utf-8") == said
    assert len(moves) > 3
    assert "WRONG" not in said
    assert said.count("differ from ours") == 6
    for line in ("in place", "reading and hashing their files", "one task: ours", "0 graphs compiled anew"):
        assert line in said
    for peer in (*training.LOOPS, *sampling.WAYS):
        assert f"  {peer} " in said


def test_it_ends_when_its_time_is_over(capsys):
    assert __main__.main(["--size", "hundredth", "--seconds", "0.2"]) == 1
    assert "WRONG: OUT OF TIME" in capsys.readouterr().out


def test_a_step_that_was_not_recorded_is_said_in_capitals(heard, capsys):
    def refuses(function) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    Replay(lambda inputs: None, Recorder(refuses))({"x": torch.zeros(1)})
    assert heard.wrong == 1
    assert "WRONG: OURS DOES NOT RUN AS IT IS MEANT TO: " in capsys.readouterr().out
    logging.getLogger("palimpsest").warning("something else")
    assert heard.wrong == 1


@pytest.mark.parametrize("other", [(1.0, 0.52), (1.02, 0.5), (float("nan"), 0.5), (1.0, float("inf"))])
def test_losses_and_gradients_that_are_further_apart_than_roundings_are_wrong(heard, other):
    training.agree(heard, "a peer", [(1.0, 0.5), (1.001, 0.5)], [(1.0, 0.5)] * 2, 0.01)
    assert not heard.wrong
    training.agree(heard, "a peer", [(1.0, 0.5), other], [(1.0, 0.5)] * 2, 0.01)
    assert heard.wrong == 1


def test_pictures_that_are_further_apart_than_roundings_are_wrong(heard):
    ours = [solid(100), solid(200)]
    sampling.agree(heard, "a peer", [solid(100), solid(201)], ours, 0.01)
    assert not heard.wrong
    sampling.agree(heard, "another one", [solid(103), solid(203)], ours, 0.01)
    sampling.agree(heard, "the wrong noise", ours[1:], ours, 0.01)
    assert heard.wrong == 2


def test_pictures_that_are_all_alike_agree_with_nothing(heard):
    sampling.agree(heard, "a peer", [solid(101), solid(100)], [solid(100)] * 2, 0.01)
    assert heard.wrong == 1


def test_a_peer_runs_as_torch_is_by_default_and_ours_as_before():
    device()
    before = torch.get_deterministic_debug_mode(), torch.backends.cudnn.allow_tf32
    with peers.usual(peers.BEST):
        assert torch.get_deterministic_debug_mode() == 0
        assert torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert before == (torch.get_deterministic_debug_mode(), torch.backends.cudnn.allow_tf32) == (1, False)


def test_the_references_copy_lies_as_torch_lays_it():
    model = torch.nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
    copy = peers.copied(model, torch.float32)
    assert not model.weight.is_contiguous()
    assert copy.weight.is_contiguous()


def test_what_is_compiled_while_it_is_timed_is_wrong(heard):
    bench = full.Bench.__new__(full.Bench)
    bench.notes, bench.args = heard, type("Args", (), {"blocks": 1})
    compiled = torch.compile(lambda x: x + 1, backend="eager", dynamic=False)
    compiled(torch.zeros(2))
    size = iter((2, 3))

    def measure() -> float:
        compiled(torch.zeros(next(size)))
        return 1.0

    bench.blocks({"ours": measure}, 0)
    assert not heard.wrong
    bench.blocks({"ours": measure}, 0)
    assert heard.wrong == 1
