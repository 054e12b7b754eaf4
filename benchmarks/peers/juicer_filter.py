"""A Filter of data-juicer, the shape of its own image filters; loaded by its setting `custom_operator_paths`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_juicer.ops.base_op import OPERATORS, Filter
from data_juicer.utils.constant import Fields

from benchmarks.peers.job import Measure


class _Photometric(Filter):
    def __init__(self, kernel: str = "ours", guarded: bool = True, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.measure_settings = (kernel, guarded)

    def compute_stats_single(self, sample: dict[str, Any], context: bool = False) -> dict[str, Any]:  # noqa: ARG002
        measure = Measure(*self.measure_settings)
        (path,) = sample[self.image_key]
        sample[Fields.stats].update(measure(Path(path).read_bytes()))
        return sample

    def process_single(self, sample: dict[str, Any]) -> bool:  # noqa: ARG002
        return True


@OPERATORS.register_module("photometric_rows_filter")
class PhotometricRows(_Photometric):
    """Called with one sample, as image_aesthetics_filter or image_watermark_filter."""


@OPERATORS.register_module("photometric_batches_filter")
class PhotometricBatches(_Photometric):
    """Called with a batch of 1,000, as image_shape_filter, image_size_filter or image_aspect_ratio_filter."""

    _batched_op = True
