"""Copies between host and device beside the computation, with a device that does its work as late as it may."""

import threading
import weakref
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.adapters import algebra, transfer
from stages.adapters.algebra import Adapter, Delta, combine, resident, select
from stages.families.unet.running_sum import RunningSum

CPU = torch.device("cpu")


class LateDevice:
    """Copies only when somebody waits for an event after them, and loses results that nobody holds until then."""

    def __init__(self):
        self.waiting, self.lock = [], threading.Lock()

    def upload(self, buffer, _):
        copy = torch.full_like(buffer, 255)
        self.waiting.append((copy, lambda: buffer))
        return copy

    def download(self, values, places, _):
        self.waiting += zip(places, map(weakref.ref, values), strict=True)
        return self.event()

    def event(self):
        return SimpleNamespace(synchronize=partial(self.work, len(self.waiting)))

    def work(self, count=None):
        with self.lock:
            for target, source in self.waiting[:count]:
                if target is not None:
                    target.copy_(source())
            self.waiting[:count] = [(None, None)] * len(self.waiting[:count])


@pytest.fixture
def late(monkeypatch):
    return installed(monkeypatch)


def installed(patch):
    device = LateDevice()
    for name in ("upload", "download", "event"):
        patch.setattr(transfer, f"_{name}", getattr(device, name))
    patch.setattr(transfer, "_has_own_memory", lambda on: True)
    patch.setattr(transfer, "_pinned", lambda size: torch.empty(size, dtype=torch.uint8))
    patch.setattr(transfer, "worker_threads", lambda: 2)
    patch.setattr(transfer, "CHUNK", 600)  # bytes: two or three of the matrices below, or one
    return device


def matrices(count, g=None):
    g = g or torch.Generator().manual_seed(count)
    kinds = (torch.float32, torch.float16, torch.float64)
    return [torch.randn(k % 5, 3, generator=g).to(kinds[k // 6 % 3]) for k in range(count)]


@pytest.mark.parametrize("count", [0, 1, 4, 5, 40])
def test_no_buffer_is_overwritten_before_the_device_has_read_it(late, count):
    values = matrices(count)
    copies = list(transfer.to_device(values, CPU))
    late.work()
    assert [copy.dtype for copy in copies] == [value.dtype for value in values]
    assert all(map(torch.equal, copies, values))


@pytest.mark.parametrize("count", [0, 1, 4, 5, 40])
def test_no_buffer_is_overwritten_before_the_host_has_copied_it(late, count):
    values = {str(number): value for number, value in enumerate(matrices(count))}
    copies = transfer.to_host(((name, value.clone()) for name, value in values.items()), CPU)
    assert [*copies] == [*values]
    assert all(torch.equal(copies[name], value) for name, value in values.items())
    assert len({copy.data_ptr() for copy in copies.values() if copy.numel()}) == sum(
        v.numel() > 0 for v in values.values()
    )


def test_an_error_in_what_is_computed_or_copied_is_raised(late):
    def results():
        yield "one", torch.ones(1)
        raise ValueError("this one")

    with pytest.raises(ValueError, match="this one"):
        transfer.to_host(results(), CPU)
    uploads = transfer.to_device(iter([torch.ones(1), torch.ones(1).to_sparse()]), CPU)
    with pytest.raises((RuntimeError, NotImplementedError)):
        list(uploads)


def test_chunks_are_full_unless_the_number_format_changes(late):
    sizes = [len(chunk) for chunk in transfer._chunks(matrices(14))]
    assert sizes == [3, 3, 2, 3, 1, 2]


def test_matrices_begin_where_the_devices_own_would(late):
    offsets = [copy.storage_offset() * copy.itemsize for copy in transfer.to_device(matrices(40), CPU)]
    assert not any(offset % transfer.ALIGNMENT for offset in offsets)
    assert any(offsets)


def test_results_of_a_chunk_share_memory_of_its_size(late):
    """One allocation for many results; those of other chunks free theirs independently."""
    values = {str(number): torch.full((8, 8), float(number)) for number in range(7)}
    copies = transfer.to_host(iter(values.items()), CPU)
    memory = [copies[name].untyped_storage() for name in values]
    assert [storage.nbytes() for storage in memory] == [512, 512, 512, 512, 512, 512, 256]
    assert len({storage.data_ptr() for storage in memory}) == 4


def test_an_abandoned_upload_leaves_no_thread(late):
    uploads = transfer.to_device(iter(matrices(30)), CPU)
    next(uploads)
    uploads.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("upload")]


def deltas():
    g = torch.Generator().manual_seed(0)
    shapes = {"m": (6, 8), "n": (4, 4), "o": (3, 5)}

    def adapter(*names):
        a = {name: torch.randn(2, shapes[name][1], generator=g) for name in names}
        return Adapter(a, {name: torch.randn(shapes[name][0], 2, generator=g) for name in names}, 0.5)

    dense = {name: torch.randn(shapes[name], generator=g) for name in ("m", "o")}
    return [Delta(), Delta((adapter("m", "n"),)), Delta((adapter("n"), adapter("m", "n")), dense), Delta(dense=dense)]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.5, 1.0, 2.0]))
def test_selecting_on_a_device_gives_the_same_bytes(one, other, threshold):
    """If products are the same: those of a GPU's library differ in the last bit from a CPU's."""
    with pytest.MonkeyPatch.context() as patch:
        installed(patch)
        patch.setattr(transfer, "_upload", lambda buffer, _: buffer.clone())
        old, new = deltas()[one], deltas()[other]
        wanted = select(old, new, threshold)
        patch.setattr(algebra, "algebra_device", lambda: torch.device("meta"))
        same = select(old, new, threshold)
        assert [*same.dense] == [*wanted.dense]
        assert all(torch.equal(same.dense[name], value) for name, value in wanted.dense.items())


def test_a_running_sum_through_buffers_has_the_same_bits(late, monkeypatch):
    monkeypatch.setattr(transfer, "_upload", lambda buffer, _: buffer.clone())
    states, sums = deltas(), RunningSum({"m": (6, 8), "n": (4, 4), "o": (3, 5)}, CPU)
    for delta in (states[1], states[1] + states[1], states[2], states[2] + states[1], states[0]):
        for name, change in sums.changes(delta):
            wanted = delta.module(name)
            assert torch.equal(change, wanted) if wanted is not None else change is None


def test_combining_and_reading_through_buffers_changes_nothing(late, monkeypatch):
    monkeypatch.setattr(transfer, "_upload", lambda buffer, _: buffer.clone())
    old, new = deltas()[1:3]
    through = combine(old, new, torch.add)
    parts = dict(zip("mno", resident(new, "mno", CPU), strict=True))
    monkeypatch.setattr(transfer, "_has_own_memory", lambda on: False)
    plain = combine(old, new, torch.add)
    assert all(torch.equal(through.dense[name], plain.dense[name]) for name in "mno")
    assert all(torch.equal(part.module(name), new.module(name)) for name, part in parts.items())
