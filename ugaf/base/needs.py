"""What chosen settings need of the machine: GPUs, packages, servers, columns. Known before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec


@dataclass(frozen=True)
class Needs:
    """What a stage or a model engine needs with the settings that were chosen. Nothing is imported to know it.

    reads, optional_reads: columns in addition to those of the stage's class.
    own_pool: it runs in workers of its own. cpus, gpus: what one of these reserves.
    fragments: how many fragments a worker works on at once, in threads: more than one for stages that wait for servers.
    batch_rows: rows a call of the stage gets at most; None: the engine's number, 32.
    servers: names of entries of the pipeline's `models:`.
    packages: importable module -> the extra of ugaf that installs it.
    models: checkpoints that the workers load, as `plan` shows them.
    without_gpu: what to set to do without a GPU, e.g. "detector.device=cpu"; "" if there is no way.
    """

    reads: tuple[str, ...] = ()
    optional_reads: tuple[str, ...] = ()
    own_pool: bool = False
    cpus: float = 0.0
    gpus: float = 0.0
    fragments: int = 1
    batch_rows: int | None = None
    servers: tuple[str, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    without_gpu: str = ""

    def by_rows(self, number: int) -> Needs:
        """The same, with calls of at most so many rows where nothing else was said."""
        return replace(self, batch_rows=self.batch_rows or number)

    def missing(self) -> dict[str, str]:
        """The packages that cannot be imported here, and their extras."""
        return {module: extra for module, extra in self.packages.items() if not _installed(module)}


def together(needs: Iterable[Needs]) -> Needs:
    """The needs of a stage that uses several engines in the same worker."""
    every = list(needs)
    rows = [n.batch_rows for n in every if n.batch_rows is not None]
    return Needs(
        reads=_union(n.reads for n in every),
        optional_reads=_union(n.optional_reads for n in every),
        own_pool=any(n.own_pool for n in every),
        cpus=sum(n.cpus for n in every),
        gpus=sum(n.gpus for n in every),
        fragments=max((n.fragments for n in every), default=1),
        batch_rows=max(rows) if rows else None,
        servers=_union(n.servers for n in every),
        packages={module: extra for n in every for module, extra in n.packages.items()},
        models=_union(n.models for n in every),
        without_gpu=", ".join(dict.fromkeys(n.without_gpu for n in every if n.without_gpu)),
    )


def install_hint(missing: Mapping[str, str]) -> str:
    """'torch, transformers are not installed: ...'; the extra is installed from ugaf's own folder, as README has it."""
    extras = ",".join(sorted(set(missing.values())))
    verb = "is" if len(missing) == 1 else "are"
    return f"{', '.join(sorted(missing))} {verb} not installed: pip install '.[{extras}]' in ugaf's folder"


def _union(groups: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for group in groups for name in group))


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
