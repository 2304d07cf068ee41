"""The full-size benchmark at a hundredth of the size: it runs if parts of the model move, reports errors and ends in
time."""

import json
import logging
import weakref
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from stages.adapters.algebra import Adapter
from stages.core.spare import spare
from stages.runtime.device import device
from stages.tools.forecasting import cards
from stages.training.cuda_graph import Recorder, Replay
from tests.bench.gpu import __main__, exact, kernels, notes, page, peers, random_sdxl, sampling, training
from tests.bench.gpu import bench as full
from tests.bench.gpu.random_sdxl import Standin

pytestmark = pytest.mark.takes(60)
HUNDREDTH = ("--size", "hundredth", "--blocks", "1", "--seconds", "1000")  # a loaded machine is slow, not wrong


@pytest.fixture
def output(tmp_path):
    with notes.Notes(tmp_path / "output.txt").listening() as opened:
        yield opened


@pytest.fixture
def shallow(monkeypatch):
    """One transformer block for each attention, 11 in place of 70, and few steps: the same code in less time."""
    monkeypatch.setitem(random_sdxl.UNETS["hundredth"], "transformer_layers_per_block", (1, 1, 1))
    for name, steps in {"STEPS": 4, "SAVED": 2, "STOPPED": 3}.items():
        monkeypatch.setattr(exact, name, steps)
    monkeypatch.setattr(sampling, "CHECKED", 2)


def solid(level: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (level,) * 3)


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_it_runs_if_training_moves_the_autoencoder_off_the_device(tmp_path, monkeypatch, capsys):
    """Another number format stands for another device."""
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
    output, results = tmp_path / "output.txt", tmp_path / "results.json"
    words = [*HUNDREDTH, "--out", str(output), "--json", str(results)]
    code = __main__.main(words)
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert output.read_text("utf-8") == printed
    assert len(moves) > 3
    assert "WRONG" not in printed
    assert printed.count("differ from ours") == 8
    for line in ("in place", "reading and hashing their files", "one task: ours", "0 graphs recompiled"):
        assert line in printed
    for peer in (*training.LOOPS, *sampling.WAYS):
        assert f"  {peer} " in printed
    facts = json.loads(results.read_text("utf-8"))
    assert {name.replace("float16", "float32") for name in cards.PARTS} <= facts["seconds"].keys()
    assert page.page([facts]).count("Kernels of") == len(facts["kernels"]) >= 5


@pytest.mark.usefixtures("shallow")
def test_it_ends_at_its_time_limit(capsys):
    random_sdxl.vae("hundredth")  # imports everything: what the limit interrupts would stay half imported
    random_sdxl.texts("hundredth")
    from diffusers import StableDiffusionXLPipeline  # noqa: F401

    assert __main__.main(["--size", "hundredth", "--seconds", "0.2"]) == 1
    assert "WRONG: OUT OF TIME" in capsys.readouterr().out


def test_a_step_that_was_not_recorded_is_an_error(output, capsys):
    def refuses(function) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    Replay(lambda inputs: None, Recorder(refuses))({"x": torch.zeros(1)})
    assert output.errors == 1
    assert "WRONG: OURS DOES NOT RUN AS INTENDED: " in capsys.readouterr().out
    logging.getLogger("palimpsest").warning("something else")
    assert output.errors == 1


@pytest.mark.parametrize("other", [(1.0, 0.52), (1.02, 0.5), (float("nan"), 0.5), (1.0, float("inf"))])
def test_losses_and_gradients_that_differ_by_more_than_rounding_are_an_error(output, other):
    training.agree(output, "a peer", [(1.0, 0.5), (1.001, 0.5)], [(1.0, 0.5)] * 2, 0.01)
    assert not output.errors
    training.agree(output, "a peer", [(1.0, 0.5), other], [(1.0, 0.5)] * 2, 0.01)
    assert output.errors == 1


def test_pictures_that_differ_by_more_than_rounding_are_an_error(output):
    ours = [solid(100), solid(200)]
    sampling.agree(output, "a peer", [solid(100), solid(201)], ours, 0.01)
    assert not output.errors
    sampling.agree(output, "another one", [solid(103), solid(203)], ours, 0.01)
    sampling.agree(output, "the wrong noise", ours[1:], ours, 0.01)
    assert output.errors == 2


def test_pictures_that_are_all_the_same_agree_with_nothing(output):
    sampling.agree(output, "a peer", [solid(101), solid(100)], [solid(100)] * 2, 0.01)
    assert output.errors == 1


def test_a_peer_runs_with_torchs_defaults_and_ours_as_before():
    device()
    before = torch.get_deterministic_debug_mode(), torch.backends.cudnn.allow_tf32
    with peers.torch_defaults(peers.BEST):
        assert torch.get_deterministic_debug_mode() == 0
        assert torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert before == (torch.get_deterministic_debug_mode(), torch.backends.cudnn.allow_tf32) == (1, False)


def test_the_reference_has_torchs_usual_memory_format():
    model = torch.nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
    copy = peers.copy_of(model, torch.float32)
    assert not model.weight.is_contiguous()
    assert copy.weight.is_contiguous()


def test_kohyas_layers_compute_what_pefts_do():
    family = Standin(size="hundredth", pixels=64)
    fresh = full.fresh_adapter(family.shapes(), 4, 8, full.generator("peers"))
    adapter = Adapter(fresh.a, {name: torch.randn_like(b) for name, b in fresh.b.items()}, fresh.scale)
    picture, prompt = torch.rand(1, 3, 64, 64), family.encode_prompts(["a star"])
    loops = [
        peers.Loop(family.pipeline, picture, prompt, adapter, peers.Way(torch.float32, cached=True, patched=patched))
        for patched in (False, True)
    ]
    (one,), (other,) = (loop.curve([3]) for loop in loops)
    assert one == pytest.approx(other, rel=1e-4)
    assert len(loops[0].parameters) == len(loops[1].parameters) == 2 * len(fresh.a)


def test_rounding_to_bfloat16_by_chance_is_exact_on_average():
    torch.manual_seed(0)
    exact = torch.tensor([1.0, 1.0 + 2**-9, -3.0 - 2**-8, 1e-3]).repeat(20_000, 1)
    target = torch.empty_like(exact, dtype=torch.bfloat16)
    peers.rounded(target, exact)
    assert bool((target[:, 0] == 1).all())
    assert set(target[:, 1].tolist()) == {1.0, 1.0 + 2**-7}
    assert torch.allclose(target.double().mean(0), exact[0].double(), rtol=1e-3)


def test_rounded_steps_add_up_where_each_is_smaller_than_the_last_digit():
    weight = torch.nn.Parameter(torch.ones(4000, dtype=torch.bfloat16))
    optimiser = peers.RoundedAdamW([weight], {"lr": 1e-4})
    for _ in range(50):
        weight.grad = torch.ones_like(weight)
        optimiser.step()
    moved = 1 - float(weight.detach().double().mean())
    assert 0.5 * 50e-4 < moved < 1.1 * 50e-4


def test_compiling_during_timing_is_an_error(output):
    bench = full.Bench.__new__(full.Bench)
    bench.notes, bench.args = output, type("Args", (), {"blocks": 1})
    compiled = torch.compile(lambda x: x + 1, backend="eager", dynamic=False)
    compiled(torch.zeros(2))
    size = iter((2, 3))

    def measure() -> float:
        compiled(torch.zeros(next(size)))
        return 1.0

    bench.blocks({"ours": measure}, 0)
    assert not output.errors
    bench.blocks({"ours": measure}, 0)
    assert output.errors == 1


def test_a_peer_that_fails_is_reported_and_left_out(output, capsys):
    bench = full.Bench.__new__(full.Bench)
    bench.notes, bench.args = output, SimpleNamespace(blocks=2)

    def fails() -> float:
        raise torch.OutOfMemoryError("CUDA out of memory\nand more")

    times = bench.blocks({"ours": lambda: 1.0, "large": fails, "small": lambda: 2.0}, float("inf"))
    assert times == {"ours": [1.0, 1.0], "small": [2.0, 2.0]}
    assert output.errors == 1
    assert "WRONG: LARGE FAILED: OutOfMemoryError: CUDA out of memory\n" in capsys.readouterr().out
    with pytest.raises(torch.OutOfMemoryError):
        bench.blocks({"ours": fails}, 0)


@pytest.mark.parametrize("stays", [False, True])
def test_a_peers_copy_is_there_only_while_it_is_used_unless_it_is_compiled(stays):
    freed, made = [], []

    def make() -> torch.nn.Module:
        assert freed == ["graphs"]
        made.append(weakref.ref(copy := torch.nn.Linear(1, 1)))
        return copy

    peer = full.Peer(make, stays)
    spare.put("our last training's", lambda: freed.append("graphs"))
    assert [peer.use(lambda copy: copy.in_features) for _ in "ab"] == [1, 1]
    assert len(made) == (1 if stays else 2)
    assert (made[-1]() is not None) == stays


def test_what_is_done_once_is_measured_before_there_are_peers(monkeypatch, output):
    compared = []

    def compare(self, ours, ways, end) -> dict[str, float]:
        compared.append(ways)
        ours.overheads.append(1.0 if ways else 0.25)
        return {"ours": 1.0}

    ours = SimpleNamespace(overheads=[], train=lambda steps: None, checkpoint=lambda: 0.0)
    monkeypatch.setattr(training, "Ours", lambda bench: ours)
    monkeypatch.setattr(training.Training, "compare", compare)
    monkeypatch.setattr(training.Training, "kernels", lambda *_: None)
    bench = full.Bench(SimpleNamespace(size="hundredth", dtype="float32", float8=False, compile="none", alone=False),
                       output, 0)  # fmt: skip
    measured = training.Training(bench)
    measured.run(0)
    assert (compared, measured.overhead) == ([{}, training.LOOPS], 0.25)
    assert output.facts["seconds"][cards.ONCE] == {"median": 0.25, "blocks": 1}


@pytest.mark.parametrize("failed", [(), ("the reference's loop, float32",)])
def test_a_task_is_added_up_for_the_peers_that_were_measured(output, capsys, failed):
    bench = SimpleNamespace(notes=output, record=lambda *_: None)
    loops = {name: 3.0 for name in training.LOOPS if name not in failed}
    own = {"ours, float16": 1.0, "ours, blocks not compiled": 2.0}
    trained = SimpleNamespace(steps=own | loops, overhead=0.0, checkpoint=0.0)
    drawn = SimpleNamespace(pictures={"ours": 1.0} | dict.fromkeys(sampling.WAYS, 3.0), once=0.0)
    __main__.add_up(bench, trained, drawn)
    printed = capsys.readouterr().out
    assert "diffusers' best: 2670.00 s" in printed
    assert ("the reference: 2670.00 s" in printed) != bool(failed)


def test_a_longer_run_that_took_less_time_on_a_loaded_machine_is_no_gain():
    assert sampling.extrapolated(1.0, 1.6, 2, 8) == pytest.approx(5.8)
    assert sampling.extrapolated(1.0, 0.9, 2, 8) == 1.0


def test_what_is_not_compiled_on_a_gpu_has_a_name_that_no_forecast_reads():
    bench = full.Bench.__new__(full.Bench)
    bench.on_gpu, bench.family = True, Standin(size="hundredth", pixels=64)
    assert bench.uncompiled == ", not compiled"
    bench.on_gpu = False
    assert bench.uncompiled == ""


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_27", "attention"),
        ("sm90_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc", "convolution"),
        ("nvjet_sm90_hsh_128x256_64x4_1x2_h_bz_coopA_TNT", "product"),
        ("sm90_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize128x128x64", "product"),
        ("void at::native::(anonymous namespace)::CatArrayBatchedCopy<unsigned short, 64, 64>", "copy"),
        ("Memcpy DtoD (Device -> Device)", "copy"),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<c10::Half, float>", "norm"),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float>>", "reduction"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::GeluBackwardCUDAKernelImpl>", "elementwise"),
        ("aten::mkldnn_convolution", "convolution"),
        ("aten::addmm", "product"),
        ("triton_per_fused_add_native_layer_norm_3", "fused"),
        ("graph_0_cpp_fused_add_native_layer_norm_1", "fused"),
    ],
)
def test_kernels_by_kind(name, kind):
    assert kernels.category(name) == kind


def test_adapters_are_compared_bit_for_bit():
    one = Adapter({"m": torch.ones(1, 2)}, {"m": torch.ones(2, 1)})
    other = Adapter({"m": torch.ones(1, 2)}, {"m": torch.tensor([[1.0], [1.0 + 2**-23]])})
    assert exact.difference(one, one) == ""
    assert exact.difference(one, other).startswith("25.0% of the numbers differ, by 6.0e-08")


def test_kinds_are_added_up():
    events = {"aten::mm": (1.0, 2), "aten::bmm": (2.0, 1), "aten::copy_": (4.0, 3)}
    assert kernels.by_category(events) == {"copy": (4.0, 3), "product": (3.0, 3)}


def test_on_a_cpu_what_runs_a_kernel_is_counted_once():
    """Neither views, nor operations that only call another one, nor what an operation calls itself."""
    layer, x = torch.nn.Linear(4, 4), torch.ones(2, 4)
    with torch.no_grad():
        events = kernels.profiled(lambda: torch.relu(layer(x).view(4, 2)).t().contiguous())
    counts = {name: count for name, (_, count) in events.items()}
    assert counts == {"aten::addmm": 1, "aten::relu": 1, "aten::clone": 1}
    names = (
        "linear",
        "to",
        "reshape",
        "scaled_dot_product_attention",
        "upsample_nearest2d",
        "sum",
        "where",
        "_to_copy",
    )
    assert [kernels.runs_kernel(f"aten::{name}") for name in names] == [False] * 4 + [True] * 4


@pytest.mark.parametrize("waits", [False, True])
def test_a_step_that_waits_for_the_device_is_reported(monkeypatch, waits):
    """As torch reports it, in steps between two readings of the losses and not at the end."""
    modes, faults = ["default"], []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    class Ours:
        def train(self, steps, between):
            for step in range(steps):
                between(step)
                if waits and modes[-1] == "error":
                    raise RuntimeError("called a synchronizing CUDA operation\nat ...")
            between(steps)

    measured = training.Training(SimpleNamespace(notes=SimpleNamespace(fail=lambda *words: faults.append(words))))
    measured.check_waiting(Ours())
    assert faults == [("a step waits for the device", "called a synchronizing CUDA operation")] * waits
    assert modes.count("error") == (1 if waits else 2)
    assert modes[-1] == "default"


def test_the_share_of_the_peak_is_shown_for_each_kind_with_arithmetic(monkeypatch, capsys):
    """Two units that took 8 ms of products and 2 of copies, and would take 2 and 1 ms each at the peak."""
    monkeypatch.setattr(kernels, "profiled", lambda work: {"aten::mm": (8e-3, 4), "memcpy": (2e-3, 2)})
    own = notes.Notes()
    rows = kernels.table(own, "work", lambda: None, 2, {"product": 2e-3, "attention": 1e-3})
    assert rows["product"] == pytest.approx({"ms": 4, "launches": 2, "share": 0.8, "of_peak": 0.5})
    assert "of_peak" not in rows["copy"]
    assert own.facts["floors"] == {"work": pytest.approx(0.6)}
    assert "the floor is 60% of it" in (printed := capsys.readouterr().out)
    assert "launches, 50% of the peak" in printed
    facts = {"card": "Card", "date": "today", "command": "python -m tests.bench.gpu", "versions": {}, **own.facts}
    assert "| product | 80% | 4.00 | 2 | 50% |" in page.section(facts)


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize(
    ("part", "figures", "tables"),
    [
        ("swap", {"swap: one adapter more", cards.MERGE}, {"a swap to one adapter more", "a merge by magnitude"}),
        ("sampling", {"picture: ours, float32, eight at a time", cards.COMPILE}, {sampling.PROFILED, sampling.DECODED}),
        ("chains", {"chains: 2"}, {"a step of one of 2 trainings in a batch"}),
        ("exact", {"step: ours, with exact kernels", "step: ours, with the fastest kernels"}, set()),
        ("task", {full.WHOLE}, set()),
        ("profile", set(), {"a training step", sampling.PROFILED, sampling.DECODED}),
    ],
)
def test_one_part_alone_and_its_results_as_json(tmp_path, capsys, part, figures, tables):
    """The parts that others precede: the whole benchmark begins with the training."""
    out = tmp_path / "results.json"
    words = [*HUNDREDTH, "--only", part, "--json", str(out)]
    assert __main__.main(words) == 0, capsys.readouterr().out
    facts = json.loads(out.read_text("utf-8"))
    assert {"card", "date", "versions", "command", "size"} < facts.keys()
    assert figures <= facts["seconds"].keys()
    assert tables <= facts.get("kernels", {}).keys()
    if part == "chains":  # 22 attentions of 11 blocks, forward and backward, once for both trainings
        assert facts["kernels"]["a step of one of 2 trainings in a batch"]["attention"]["launches"] == 22
    assert page.page([facts])
