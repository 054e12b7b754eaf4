"""The feature cache: what is written is what a training would have computed, and reading it gives the same steps."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from shard_tools import record, records, settings, write
from test_trainer_loader import TOKENS, with_bad

from ugaf.base.errors import ConfigError, UgafError
from ugaf.trainer.data import Batch, DataSettings, Loader, Plan, open_index, write_cache
from ugaf.trainer.data.buffers import Buffers
from ugaf.trainer.data.cache import describe

pytestmark = pytest.mark.torch


class Averages:
    """An encoder whose features are simple functions of what it is shown."""

    def __init__(self, fail_on: str = "") -> None:
        self.fail_on = fail_on

    def images(self, batch: Batch) -> dict[str, torch.Tensor]:
        if self.fail_on and self.fail_on in batch.ids:
            raise ValueError("out of memory")
        kept = batch.source * ~batch.roi_mask
        shown = {"source_latents": batch.source, "edited_latents": batch.edited, "masked_latents": kept}
        small = {name: torch.nn.functional.avg_pool2d(value.float(), 8) for name, value in shown.items()}
        return {name: value.to(torch.bfloat16) for name, value in small.items()}

    def text(self, batch: Batch) -> list[torch.Tensor]:
        codes = [torch.tensor([ord(letter) for letter in text], dtype=torch.float32) for text in batch.instructions]
        return [
            torch.stack([code, source.float().mean().expand_as(code)], 1)
            for code, source in zip(codes, batch.source, strict=True)
        ]


def make() -> Averages:
    return Averages()


def cached(wanted: DataSettings, folder: Path) -> DataSettings:
    return DataSettings.model_validate({**wanted.model_dump(mode="json"), "cache": str(folder)})


def steps(wanted: DataSettings, count: int, **options: int) -> list[list[Batch]]:
    made = Loader(Plan(open_index(wanted), wanted, 0), **options)
    found = [batches for _, batches in islice(made, count)]
    made.close()
    return found


def assert_as_computed(stored: list[list[Batch]], computed: list[list[Batch]]) -> None:
    for some, more in zip(stored, computed, strict=True):
        for one, other in zip(some, more, strict=True):
            assert (one.ids, one.instructions, one.boxes, one.bucket) == (
                other.ids,
                other.instructions,
                other.boxes,
                other.bucket,
            )
            for name in ("roi_mask", "positions", "weights", "epochs"):
                assert torch.equal(getattr(one, name), getattr(other, name))
            assert one.source.shape == one.edited.shape == (len(one), 3, 0, 0)
            assert one.features is not None
            for name, value in make().images(other).items():
                assert one.features[name].dtype == torch.bfloat16
                assert torch.equal(one.features[name], value)
            for place, text in enumerate(make().text(other)):
                assert torch.equal(one.features["text"][place, : len(text)], text)
                assert not one.features["text"][place, len(text) :].any()
                assert one.features["text_mask"][place].sum() == len(text)


@pytest.mark.parametrize("workers", [0, 3])
def test_cached_features_are_those_of_the_images(tmp_path: Path, workers: int) -> None:
    wanted = settings(write(tmp_path / "run", records(30)), tokens=TOKENS)
    index = open_index(wanted)
    written = write_cache(wanted, index, make, str(tmp_path / "cache"), encoder="averages/1", empty=" ", inline=True)
    assert (written.parts, written.there, written.corrupt) == (len(index.chunks), 0, [])
    with_cache = cached(wanted, tmp_path / "cache").model_copy(update={"workers": workers})
    found = steps(with_cache, 25)
    assert_as_computed(found, steps(wanted, 25))
    features = found[0][0].features
    assert features is not None
    assert features["empty_text"].shape[1:] == (1, 2)
    assert features["empty_text_mask"].all()
    assert_as_computed(
        steps(with_cache, 3, start_step=9, rank=1, world=2), steps(wanted, 3, start_step=9, rank=1, world=2)
    )


def test_cached_features_need_no_images(tmp_path: Path) -> None:
    wanted = settings(write(tmp_path / "run", records(12)))
    index = open_index(wanted)
    write_cache(wanted, index, make, str(tmp_path / "cache"), encoder="averages/1", inline=True)
    made = Loader(Plan(index, cached(wanted, tmp_path / "cache"), 0))
    for shard in index.shards:
        Path(shard.path).unlink()
    assert sum(len(batch) for _, batches in islice(made, 8) for batch in batches) == 16
    made.close()


def test_writing_goes_on_where_it_was_left(tmp_path: Path) -> None:
    wanted = settings(write(tmp_path / "run", records(30)))
    index, folder = open_index(wanted), str(tmp_path / "cache")
    bad = record(17).id
    with pytest.raises(ValueError, match="out of memory"):
        write_cache(wanted, index, lambda: Averages(bad), folder, encoder="averages/1", inline=True)
    parts = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache/parts").iterdir()}
    assert 0 < len(parts) < len(index.chunks)
    with pytest.raises(ConfigError, match=rf"lacks {len(index.chunks) - len(parts)} of {len(index.chunks)} parts"):
        Loader(Plan(index, cached(wanted, tmp_path / "cache"), 0))
    written = write_cache(wanted, index, make, folder, encoder="averages/1", inline=True)
    assert written.there == len(parts)
    assert all((tmp_path / "cache/parts" / name).stat().st_mtime_ns == time for name, time in parts.items())
    assert write_cache(wanted, index, make, folder, encoder="averages/1", inline=True).parts == 0
    assert len(steps(cached(wanted, tmp_path / "cache"), 3)) == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"area": 64 * 64}, "was made with area: 2304, but data.area is 4096"),
        ({"multiple": 32, "area": 48 * 48}, "was made with multiple: 16"),
        ({"instructions": {"columns": {"other": {}}}}, "has no text of other"),
        ({"split": None}, None),
    ],
)
def test_a_cache_of_other_settings_is_refused(tmp_path: Path, changes: dict[str, Any], says: str | None) -> None:
    wanted = settings(write(tmp_path / "run", records(12)))
    index, folder = open_index(wanted), str(tmp_path / "cache")
    write_cache(wanted, index, make, folder, encoder="averages/1", inline=True)
    assert describe(folder)["encoder"] == "averages/1"
    other = settings(tmp_path / "run", cache=folder, **changes)
    if says is None:
        Loader(Plan(index, other, 0))
        return
    with pytest.raises(ConfigError, match=says):
        Loader(Plan(index, other, 0))
    with pytest.raises(ConfigError, match="was begun with encoder 'averages/1', not 'averages/2'"):
        write_cache(wanted, index, make, folder, encoder="averages/2", inline=True)
    with pytest.raises(ConfigError, match="is no feature cache"):
        Loader(Plan(index, settings(tmp_path / "run", cache=str(tmp_path)), 0))


def test_corrupt_samples_stay_corrupt_in_the_cache(tmp_path: Path) -> None:
    wanted = settings(with_bad(tmp_path / "run", {3, 17}), tokens=TOKENS, max_corrupt=1)
    index = open_index(wanted)
    written = write_cache(wanted, index, make, str(tmp_path / "cache"), encoder="averages/1", inline=True)
    assert len(written.corrupt) == 2
    assert all("source" in why for _, why in written.corrupt)
    for some, more in zip(steps(cached(wanted, tmp_path / "cache"), 30), steps(wanted, 30), strict=True):
        for one, other in zip(some, more, strict=True):
            assert torch.equal(one.weights, other.weights)
            assert len(one.corrupt) == len(other.corrupt)
            assert one.features is not None
            assert one.features["source_latents"].shape[0] == len(one)


def test_alignment_and_cache_exclude_each_other(tmp_path: Path) -> None:
    wanted = settings(write(tmp_path / "run", records(8)), alignment={"shuffle": True})
    with pytest.raises(ConfigError, match="cannot be used with a cache"):
        write_cache(wanted, open_index(wanted), make, str(tmp_path / "cache"), encoder="averages/1", inline=True)


class Heavy(Averages):
    def text(self, batch: Batch) -> list[torch.Tensor]:
        return [torch.ones((500, 1000)) for _ in batch.ids]


def test_writing_holds_no_more_than_a_few_samples(tmp_path: Path) -> None:
    """Of 200 MB of features."""
    wanted = settings(write(tmp_path / "run", records(50)))
    process = psutil.Process()

    index = open_index(wanted)
    write_cache(wanted, index, Heavy, str(tmp_path / "warm"), encoder="heavy", inline=True)
    before = process.memory_info().rss
    write_cache(wanted, index, Heavy, str(tmp_path / "cache"), encoder="heavy", inline=True)
    assert process.memory_info().rss - before < 60e6


def test_memory_is_used_again_only_when_no_view_of_it_is_left() -> None:
    buffers = Buffers(limit=3 << 20)
    first = torch.from_numpy(buffers.take(1000)).view(10, 100)
    address, row = first.data_ptr(), first[3]
    del first
    second = torch.from_numpy(buffers.take(1000))
    assert second.data_ptr() != address
    assert buffers.free_bytes == 0
    del row
    assert buffers.free_bytes == 1 << 20
    assert torch.from_numpy(buffers.take(900)).data_ptr() == address
    many = [buffers.take(1 << 20) for _ in range(8)]
    del many, second
    assert buffers.free_bytes <= 3 << 20


@pytest.mark.usefixtures("local_ray")
def test_ray_actors_write_the_same_cache(tmp_path: Path) -> None:
    wanted = settings(write(tmp_path / "run", records(30)))
    index = open_index(wanted)

    def with_ray(folder: str, fail_on: str = "", actors: int = 1) -> Any:
        options = {"encoder": "averages/1", "actors": actors}
        return write_cache(wanted, index, lambda: Averages(fail_on), str(tmp_path / folder), **options)

    with pytest.raises(ConfigError, match=r"9 actors of 0\.5 CPU do not fit: Ray has 4, of which 0\.5 must stay free"):
        with_ray("cache", actors=9)
    assert with_ray("cache", actors=2).parts == len(index.chunks)
    write_cache(wanted, index, make, str(tmp_path / "inline"), encoder="averages/1", inline=True)
    for one in sorted((tmp_path / "inline/parts").iterdir()):
        assert (tmp_path / "cache/parts" / one.name).read_bytes() == one.read_bytes()
    with pytest.raises(UgafError, match=r"the cache is not complete; part .*: ValueError: out of memory"):
        with_ray("failing", fail_on=record(17).id)


@pytest.fixture
def local_ray() -> Iterator[None]:
    import ray

    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    # The encoder's module is not on the path of Ray's workers.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    ray.shutdown()
