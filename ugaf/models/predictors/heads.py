"""Small heads on an embedding, as they are published: read from a file, computed in numpy.

A head is a chain of linear layers. The file is a state dict (.safetensors, .npz, or a .pt/.pth/.bin of PyTorch, read
with `weights_only`) whose entries are named:

- `weight` and `bias`, or `PREFIX.weight` and `PREFIX.bias` for each layer; a weight is (outputs, inputs), a bias
  (outputs), which may be left out. Layers follow each other in the order of the numbers in their names
  (`layers.0.weight`, `layers.2.weight`, ..., `linear_1.weight`, ...), as they stand in torch.nn.Sequential.
- `mean` and `variance` (with any prefix, `norm.mean`), each (inputs): the embedding is standardised by them first.

So are LAION's aesthetic heads (one layer; or five without anything between them), Aesthetic Predictor V2.5 on SigLIP,
and LAION's NSFW heads (relu between the layers, sigmoid at the end).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ugaf.base.errors import ConfigError
from ugaf.models.detectors.common import libraries

Activation = Literal["none", "relu", "gelu", "silu", "tanh"]
Output = Literal["none", "sigmoid"]
TORCH_FILES = (".pt", ".pth", ".bin", ".ckpt")
SUFFIXES = (".safetensors", ".npz", *TORCH_FILES)


@dataclass(frozen=True, eq=False)
class Head:
    """A chain of linear layers from an embedding to one number.

    layers: (weight float64 (outputs, inputs), bias (outputs)), first to last. mean, scale: float64 (inputs), by which
    the embedding is standardised first; None if it is not. activation: between the layers. output: after the last one.
    """

    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    activation: Activation = "none"
    output: Output = "none"
    mean: np.ndarray | None = None
    scale: np.ndarray | None = None

    @property
    def dim(self) -> int:
        """How many numbers an embedding must have."""
        return int(self.layers[0][0].shape[1])

    def __call__(self, embedding: np.ndarray) -> float:
        """The score of an embedding (dim,)."""
        values = np.asarray(embedding, np.float64)
        if self.mean is not None and self.scale is not None:
            values = (values - self.mean) / self.scale
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is looked at by who asks
            for number, (weight, bias) in enumerate(self.layers):
                values = weight @ values + bias
                if number + 1 < len(self.layers):
                    values = _activate(values, self.activation)
        score = float(values[0])
        return float(0.5 * (1 + np.tanh(score / 2))) if self.output == "sigmoid" else score


def read_head(path: str, activation: Activation = "none", output: Output = "none") -> Head:
    """The head of a file. Raises ConfigError naming the file and the entry that does not fit."""
    file = Path(path).expanduser()
    if file.suffix not in SUFFIXES:
        raise ConfigError(f"head {file}: a head is read from a file of {', '.join(SUFFIXES)}")
    if not file.is_file():
        raise ConfigError(f"head {file}: there is no such file")
    return head_of(_entries(file), f"head {file}", activation, output)


def head_of(
    entries: Mapping[str, np.ndarray], where: str, activation: Activation = "none", output: Output = "none"
) -> Head:
    """The head of a state dict. Raises ConfigError naming the entry that does not fit."""
    known: dict[str, dict[str, np.ndarray]] = {}
    for name, values in entries.items():
        prefix, _, role = name.rpartition(".")
        if role not in ("weight", "bias", "mean", "variance"):
            raise ConfigError(f"{where}: {name!r} is no entry of a head: expected weight, bias, mean or variance")
        known.setdefault(prefix, {})[role] = np.asarray(values, np.float64)
    norms = [prefix for prefix, parts in known.items() if "mean" in parts or "variance" in parts]
    mean, scale = _standard(known.pop(norms[0]), where) if len(norms) == 1 else (None, None)
    if len(norms) > 1:
        raise ConfigError(f"{where}: an embedding is standardised once, not by {', '.join(map(repr, norms))}")
    if not known:
        raise ConfigError(f"{where}: it holds no layer")
    layers = tuple(_layer(prefix, known[prefix], where) for prefix in sorted(known, key=_position))
    for (before, _), (after, _) in itertools.pairwise(layers):
        if before.shape[0] != after.shape[1]:
            raise ConfigError(f"{where}: a layer gives {before.shape[0]} numbers, the next one takes {after.shape[1]}")
    if layers[-1][0].shape[0] != 1:
        raise ConfigError(f"{where}: it ends in {layers[-1][0].shape[0]} numbers; a score is one")
    head = Head(layers, activation, output, mean, scale)
    if mean is not None and len(mean) != head.dim:
        raise ConfigError(f"{where}: mean and variance are of {len(mean)} numbers, the first layer takes {head.dim}")
    return head


def _layer(prefix: str, parts: Mapping[str, np.ndarray], where: str) -> tuple[np.ndarray, np.ndarray]:
    name = f"{prefix}.weight" if prefix else "weight"
    weight = parts.get("weight")
    if weight is None:
        raise ConfigError(f"{where}: there is a bias, but no {name!r}")
    if weight.ndim != 2:
        raise ConfigError(f"{where}: {name!r} has the shape {weight.shape}; a linear layer's is (outputs, inputs)")
    bias = parts.get("bias", np.zeros(weight.shape[0]))
    if bias.shape != weight.shape[:1]:
        raise ConfigError(f"{where}: the bias of {name!r} has the shape {bias.shape}, not {weight.shape[:1]}")
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise ConfigError(f"{where}: {name!r} or its bias holds values that are not finite")
    return weight, bias


def _standard(parts: Mapping[str, np.ndarray], where: str) -> tuple[np.ndarray, np.ndarray]:
    if set(parts) != {"mean", "variance"}:
        raise ConfigError(f"{where}: to standardise it takes a mean and a variance, not {', '.join(sorted(parts))}")
    mean, variance = parts["mean"].reshape(-1), parts["variance"].reshape(-1)
    if mean.shape != variance.shape or not (variance > 0).all() or not np.isfinite(mean).all():
        raise ConfigError(f"{where}: mean and variance must be finite, of one length, and the variance above 0")
    return mean, np.sqrt(variance)


def _position(prefix: str) -> tuple[Any, ...]:
    """By the numbers in a name as numbers: layers.10 comes after layers.2."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", prefix))


def _entries(file: Path) -> dict[str, np.ndarray]:
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        if file.suffix == ".safetensors":
            return _safetensors(file)
        return _torch(file)
    except ConfigError:
        raise
    except Exception as error:  # each reader has errors of its own for damaged files
        raise ConfigError(f"head {file}: cannot be read: {error}") from error


def _safetensors(file: Path) -> dict[str, np.ndarray]:
    libraries({"safetensors": "transformers"})
    from safetensors.numpy import load_file

    return dict(load_file(file))


def _torch(file: Path) -> dict[str, np.ndarray]:
    (torch,) = libraries({"torch": "transformers"})
    # Nothing but tensors is read: a pickle may run code.
    loaded = torch.load(str(file), map_location="cpu", weights_only=True)
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(torch.is_tensor(value) for value in loaded.values()):
        raise ConfigError(f"head {file}: expected a state dict, names to tensors")
    return {str(name): value.float().numpy() for name, value in loaded.items()}


def _activate(values: np.ndarray, activation: Activation) -> np.ndarray:
    if activation == "relu":
        return np.maximum(values, 0)
    if activation == "tanh":
        return np.tanh(values)
    if activation == "silu":
        return values * 0.5 * (1 + np.tanh(values / 2))
    if activation == "gelu":
        from scipy.special import erf

        return 0.5 * values * (1 + erf(values / np.sqrt(2)))
    return values
