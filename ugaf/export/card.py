"""The dataset card: `README.md` of the run's folder, with the YAML front matter of the Hugging Face Hub.

It says what is in the set, how it came to be (funnel, thresholds, versions) and how to load it. The same run gives the
same card: no time of day, and no path but the inputs as the user gave them. Whatever comes from data is escaped.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from ugaf.base.location import Location
from ugaf.base.printing import harmless
from ugaf.export import balanced, folder
from ugaf.export.balanced import Balance
from ugaf.export.columns import Column, type_name
from ugaf.export.products import PAIRS, PHOTOGRAPHS, Product
from ugaf.export.split import OTHER_SPLIT
from ugaf.pipeline.settings import ExportSettings

if TYPE_CHECKING:
    from ugaf.columns.view import RunView
    from ugaf.export.rows import Plan

PATH = "README.md"

_HUB_LICENSES = (
    "unknown other mit apache-2.0 bsd bsd-2-clause bsd-3-clause cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 "
    "cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 "
    "cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 c-uda "
    "odc-by odbl pddl openrail gfdl gpl-3.0 agpl-3.0 lgpl-3.0 mpl-2.0 unlicense etalab-2.0 eupl-1.1 eupl-1.2"
)
"""Licence identifiers of the Hub that data sets use; any other licence is `other` with its name beside it."""

_SIZES = (
    *((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")),
    *((10**8, "10M<n<100M"), (10**9, "100M<n<1B")),
)

_OPENINGS = {
    "pairs": "Pairs for instruction-based image editing: source image, target box, instruction, edited image.",
    "photographs": "Photographs, measured and curated: each with what was measured of it and where it came from.",
}
_TAGS = {
    "pairs": ["image-editing", "instruction-based-image-editing", "ugaf"],
    "photographs": ["photographs", "image-curation", "ugaf"],
}

MAX_BALANCE_ROWS = 50
"""Categories in the table of the balance; the tail of a longer one is summed up."""


def render(view: RunView, product: Product, settings: ExportSettings, plan: Plan, manifest: Mapping[str, Any]) -> bytes:
    """The whole card. `manifest` holds the counts of what was written (see `ugaf.export`)."""
    splits = manifest["counts"]["split"]
    title = settings.name or view.name
    sections = [
        f"# {escape(title)}",
        _opening(product, splits, manifest),
        *(_counts(heading, manifest["counts"][name], splits) for name, heading in product.dimensions.items() if splits),
        _balance(plan.balance, manifest) if plan.balance is not None else "",
        _loading(product, manifest),
        _beside(view, product),
        _funnel(view, manifest),
        _thresholds(view),
        _columns(product, plan.columns),
        _origin(view, manifest),
        f"## Licence\n\n{escape(settings.license)}. The photographs keep the licences that they came with.",
    ]
    front = yaml.safe_dump(_front_matter(view, product, title, settings, manifest), sort_keys=False, allow_unicode=True)
    body = "\n\n".join(section for section in sections if section)
    return harmless(f"---\n{front}---\n\n{body}\n").encode()


def escape(value: object) -> str:
    """Text from data as Markdown that shows it literally, on one line."""
    line = " ".join(html.escape(str(value), quote=False).split())
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", line)


def _front_matter(
    view: RunView, product: Product, title: str, settings: ExportSettings, manifest: Mapping[str, Any]
) -> dict[str, Any]:
    total = sum(manifest["counts"]["split"].values())
    front: dict[str, Any] = {"pretty_name": title}
    known = settings.license.lower() in _HUB_LICENSES.split()
    front["license"] = settings.license.lower() if known else "other"
    if not known:
        front["license_name"] = re.sub(r"[^a-z0-9.]+", "-", settings.license.lower()).strip("-") or "custom"
    if product.is_pairs:
        front |= {"task_categories": ["image-to-image"], "language": ["en"]}
    front["tags"] = _TAGS[product.noun]
    front["size_categories"] = [next((name for limit, name in _SIZES if total < limit), "n>1T")]
    configs = [_config("default", product, manifest)]
    configs += [_config(other.config, other, found) for other, found in _others(view, product)]
    if any(configs):
        front["configs"] = [config for config in configs if config]
    return front


def _config(name: str, product: Product, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Where `datasets` finds the Parquet shards; {} if there are none."""
    parquet = f"{product.root}/parquet"
    if not any(path.startswith(f"{parquet}/") for path in manifest["files"]):
        return {}
    files = [{"split": split, "path": f"{parquet}/{split}-*.parquet"} for split in manifest["counts"]["split"]]
    return {"config_name": name, "data_files": files}


def _others(view: RunView, product: Product) -> list[tuple[Product, dict[str, Any]]]:
    """The other product of the run's folder, where it was exported and has rows, with its manifest."""
    found = [(one, folder.read_manifest(view.storage, one.root)) for one in (PAIRS, PHOTOGRAPHS) if one != product]
    return [(one, manifest) for one, manifest in found if manifest is not None and manifest["counts"]["split"]]


def _beside(view: RunView, product: Product) -> str:
    lines = []
    for other, manifest in _others(view, product):
        count = sum(manifest["counts"]["split"].values())
        lines.append(f"## {other.noun.capitalize()}\n\nBeside these, `{other.root}/` holds {count:,} {other.noun}.")
    return "\n\n".join(lines)


def _opening(product: Product, splits: Mapping[str, int], manifest: Mapping[str, Any]) -> str:
    made = f"Made with ugaf {escape(manifest['versions']['ugaf'])}, a data engine after the U-GAF pipeline of "
    text = f"{_OPENINGS[product.noun]} {made}FineEdit (arXiv 2604.10954)."
    if not splits:
        one = product.noun.removesuffix("s")
        return f"{text}\n\n**No {one} was kept**, so there are no shards; the funnel below shows where they went."
    if not product.is_pairs:
        rows = [*splits.items(), ("all", sum(splits.values()))]
        return f"{text} No photograph is in both splits.\n\n{_table(('Split', 'Photographs'), rows)}"
    photographs = manifest["photographs"]
    counted = [(name, pairs, photographs[name]) for name, pairs in splits.items()]
    counted.append(("all", sum(splits.values()), sum(photographs.values())))
    text += " No picture, source or edited, is in both splits."
    if moved := manifest.get("moved"):
        text += f" {moved:,} pairs that came as validation are in train: one of their pictures came in train, too."
    return f"{text}\n\n{_table(('Split', 'Pairs', 'Photographs'), counted)}"


def _counts(heading: str, counts: Mapping[str, Mapping[str, int]], splits: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    rows = [(name, *(by.get(split, 0) for split in splits), sum(by.values())) for name, by in ordered]
    return f"## {heading}\n\n{_table((heading, *splits, 'all'), rows)}"


def _balance(balance: Balance, manifest: Mapping[str, Any]) -> str:
    """Pairs by category against the target, the gaps, and how long the tail is."""
    account, settings, tail = balance.account, balance.settings, balance.account.tail
    lines = account.lines[:MAX_BALANCE_ROWS]
    rows = []
    for line in lines:
        counts = (f"{line.rows:,}", f"{line.taken:,}", _share(line.taken, account.taken))
        rows.append((line.category, *counts, f"{line.target:.1%}", f"{line.gap:+,}" if line.gap else "0"))
    head = (settings.by, "Kept", "Exported", "Share", "Target", "Gap")
    parts = [f"## Balance\n\nPairs by {escape(settings.by)}. {balanced.described(settings)}", _table(head, rows)]
    if more := account.lines[MAX_BALANCE_ROWS:]:
        taken = sum(line.taken for line in more)
        parts.append(
            f"{len(more):,} more categories have {sum(line.rows for line in more):,} pairs, {taken:,} exported."
        )
    short = balanced.summary(account.lines)
    parts.append(
        f"Gap: pairs that a category has beyond its part of the {account.rows:,} kept ones, by the target"
        + (f"; {escape(short)}. " if short else ". ")
        + f"Without more pairs, {account.reachable:,} can meet the target. The {tail.categories:,} categories that "
        f"have pairs are as varied as {tail.effective:.1f} of equal size (exp of the Shannon entropy); the largest has "
        f"{tail.largest:.1%}, {tail.half:,} hold half of the pairs, the Gini coefficient is {tail.gini:.2f}."
        + (f" {tail.below:,} have fewer than {settings.min_rows:,} pairs." if settings.min_rows else "")
    )
    late = [reason for reason in ("unreadable image", OTHER_SPLIT) if reason in manifest["left_out"]]
    for reason in late:
        parts.append(f"{manifest['left_out'][reason]:,} pairs left out ({reason}) are counted as exported here.")
    return "\n\n".join(parts)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _loading(product: Product, manifest: Mapping[str, Any]) -> str:
    splits, root = manifest["counts"]["split"], product.root
    if not splits:
        return ""
    first = next(iter(splits))
    images = "source and edited are decoded images" if product.is_pairs else "image is a decoded picture"
    code = ["# from the folder of this card"]
    if any(path.startswith(f"{root}/parquet/") for path in manifest["files"]):
        code += ["import datasets", f'{product.noun} = datasets.load_dataset(".")  # {images}', ""]
        code += [
            "import pandas",
            f'table = pandas.read_parquet("{root}/parquet", filters=[("split", "==", "{first}")])',
        ]
    if any(path.startswith(f"{root}/webdataset/") for path in manifest["files"]):
        code += ["", "import glob, webdataset", f'tars = sorted(glob.glob("{root}/webdataset/{first}-*.tar"))']
        code += ['samples = webdataset.WebDataset(tars, shardshuffle=False).decode("pil")']
    return "## Loading\n\n```python\n" + "\n".join(code) + "\n```" if len(code) > 1 else ""


def _funnel(view: RunView, manifest: Mapping[str, Any]) -> str:
    head = ("Stage", "Rows", "Given", "Kept", "Rejected", "Failed", "Pending", "Reasons")
    rows = []
    for stage in view.funnel():
        reasons = sorted({**stage.rejected, **stage.errors}.items(), key=lambda item: (-item[1], item[0]))
        why = "; ".join(f"{reason}: {count}" for reason, count in reasons[:5])
        why += f"; {len(reasons) - 5} more" if len(reasons) > 5 else ""
        rejected = sum(stage.rejected.values())
        counts = (stage.given, stage.kept, rejected, stage.failed, stage.pending)
        rows.append((stage.name, "photographs" if stage.level == "image" else "edits", *counts, why))
    text = f"## Funnel\n\n{_table(head, rows)}"
    if manifest["left_out"]:
        left_out = "; ".join(f"{escape(reason)}: {count}" for reason, count in sorted(manifest["left_out"].items()))
        text += f"\n\nKept, but left out of the shards: {left_out}."
    return text


def _thresholds(view: RunView) -> str:
    rows = []
    for stage in view.stages:
        for column, rule in stage.keep.items():
            bounds = ", ".join(f"{kind} {_shown(bound)}" for kind, bound in rule.items())
            rows.append((stage.name, column, bounds))
    return f"## Thresholds\n\n{_table(('Stage', 'Column', 'Kept where'), rows)}" if rows else ""


def _columns(product: Product, columns: Iterable[Column]) -> str:
    rows = "\n".join(f"| `{column.name}` | `{type_name(column)}` | {column.description} |" for column in columns)
    note = "Boxes are absolute pixels of `source`, [x1, y1, x2, y2], half-open.\n\n" if product.is_pairs else ""
    return f"## Columns\n\n{note}| Column | Type | Meaning |\n|---|---|---|\n{rows}"


def _origin(view: RunView, manifest: Mapping[str, Any]) -> str:
    document = {name: view.pipeline.document[name] for name in ("inputs", "seed") if name in view.pipeline.document}
    if view.inputs:
        document["inputs"] = view.inputs
    elif "inputs" in document:
        document["inputs"] = [{**entry, "path": Location(entry["path"]).public} for entry in document["inputs"]]
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    versions = _table(("Package", "Version"), manifest["versions"].items())
    return f"## How it was made\n\n{fence}yaml\n{text}{fence}\n\n{_not_read(view)}{versions}"


def _not_read(view: RunView) -> str:
    """What lies under the inputs and was not read, where there is any."""
    found = [f"{entry['what']}: {entry['count']:,}" for entry in view.record.get("not_read", ())]
    return f"Under the inputs, and not read: {escape(', '.join(found))}.\n\n" if found else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(escape(cell) for cell in row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def _shown(bound: Any) -> str:
    if isinstance(bound, list):
        return ", ".join(map(str, bound))
    return f"{bound:.6g}" if isinstance(bound, float) else str(bound)
