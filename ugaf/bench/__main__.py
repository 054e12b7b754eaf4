"""`python -m ugaf.bench`: the command line. Nothing heavy is imported before the arguments are understood."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PROTOCOLS = {
    "fineedit": "FineEdit-1k: pairs; fidelity outside the box, CLIP in it, PC / VN / PDI / OBR by a judge",
    "imgedit": "ImgEdit-Bench: three scores of 1 to 5 by a judge, 9 types of edits",
    "gedit": "GEdit-Bench: SC, PQ and O of 0 to 10 by a judge, 11 groups, English and Chinese",
    "rededit": "REDEdit-Bench: three scores of 1 to 5 by a judge, 15 tasks, OCR for text",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a benchmark; errors meant for the user are printed without a traceback. Returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    from ugaf.base.errors import STOPPED, StopRun, UgafError, nearest
    from ugaf.base.printing import complain, harmless, ready_streams

    ready_streams()

    if given and not given[0].startswith("-") and given[0] not in PROTOCOLS:
        complain("ugaf.bench", f"unknown protocol {given[0]!r}{nearest(given[0], PROTOCOLS)}")
        return 2
    options = parser().parse_args(given)
    try:
        from ugaf.bench import running

        report = running.run(_settings(options))
    except UgafError as error:
        complain("ugaf.bench", error)
        return 2
    except StopRun as error:
        complain("ugaf.bench", error)
        return STOPPED
    except KeyboardInterrupt:
        complain("ugaf.bench", "interrupted; what is done is kept, the same command goes on from there")
        return 130
    print(harmless(report))
    return 0


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m ugaf.bench",
        description="Score an image editor by a published benchmark's protocol. A run that was ended goes on where it "
        "was; OUT/report.md and OUT/report.json hold the table.",
    )
    protocols = made.add_subparsers(dest="protocol", required=True, metavar="PROTOCOL")
    for name, text in PROTOCOLS.items():
        _options(protocols.add_parser(name, help=text, description=text), name)
    return made


def _options(parser: argparse.ArgumentParser, protocol: str) -> None:
    parser.add_argument("--data", required=True, help="the benchmark's folder or file, as it is published")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where edited pictures, scores and report go")
    edits = parser.add_mutually_exclusive_group(required=True)
    edits.add_argument(
        "--editor", metavar="SPEC", help="'{engine: diffusers, model: ...}', or a YAML file with that: who edits"
    )
    from_data = "; `dataset`: the pairs' own edited pictures" if protocol == "fineedit" else ""
    edits.add_argument("--outputs", metavar="FOLDER", help=f"pictures that were edited elsewhere{from_data}")
    parser.add_argument(
        "--models",
        metavar="FILE",
        help="YAML with entries of served models by name (a pipeline with `models:` will do)",
    )
    parser.add_argument(
        "--judge",
        metavar="SPEC",
        help="who judges: a name in --models, or '{model: NAME, endpoints: [http://HOST:PORT/v1]}'; without it the "
        "judge's scores are named as missing",
    )
    parser.add_argument("--prompts", metavar="FOLDER", help="files that replace the judge's prompts of the same names")
    parser.add_argument("--max-tokens", type=int, default=2048, help="longest answer of the judge (default: 2048)")
    parser.add_argument("--limit", type=int, metavar="N", help="take only the first N items of each group")
    parser.add_argument("--seed", type=int, default=0, help="of the edits (default: 0)")
    parser.add_argument("--batch", type=int, default=8, help="items that an editor is given at once (default: 8)")
    parser.add_argument("--retry-failed", action="store_true", help="try again what failed before")
    if protocol == "fineedit":
        parser.add_argument(
            "--boxes",
            choices=("difference", "data"),
            default="difference",
            help="where the box comes from: the pair's difference (the protocol), or the column of the data",
        )
        parser.add_argument(
            "--clip", default="openai/clip-vit-large-patch14", metavar="MODEL", help="CLIP: a hub id or a folder"
        )
        parser.add_argument("--device", default="cpu", help="where LPIPS and CLIP run: cpu or cuda (default: cpu)")
    if protocol in ("imgedit", "rededit"):
        parser.add_argument(
            "--images", metavar="FOLDER", help="where the pictures are, if not beside the list of items"
        )
    if protocol in ("gedit", "rededit"):
        several = ["both"] if protocol == "gedit" else []
        parser.add_argument(
            "--language",
            choices=("en", "cn", *several),
            default="both" if several else "en",
            help="of the instructions (default: %(default)s)",
        )
    if protocol == "rededit":
        parser.add_argument(
            "--reader", default="{engine: rapidocr}", metavar="SPEC", help="who reads text (default: %(default)s)"
        )


def _settings(options: argparse.Namespace) -> Any:
    from ugaf.base.errors import ConfigError
    from ugaf.bench.settings import BenchSettings, judge_of, models_of

    for name in ("limit", "batch", "max_tokens"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')}: must be at least 1 (got {value})")
    given = vars(options)
    models = models_of(options.models)
    return BenchSettings(
        **{name: given[name] for name in BenchSettings.plain() if name in given},
        editor=_mapping(options.editor, "--editor"),
        models=models,
        judge=judge_of(options.judge, models),
        reader=_mapping(given.get("reader"), "--reader"),
    )


def _mapping(text: str | None, option: str) -> Mapping[str, Any] | None:
    """A mapping given as YAML on the command line, or in a file."""
    from ugaf.base.errors import ConfigError
    from ugaf.bench.settings import yaml_of

    if text is None:
        return None
    if not text.lstrip().startswith("{") and not Path(text).is_file():
        raise ConfigError(f"{option}: {text!r} is neither a file nor a mapping like '{{engine: NAME, ...}}'")
    found = yaml_of(text, option)
    if not isinstance(found, Mapping):
        raise ConfigError(f"{option}: expected a mapping like {{engine: NAME, ...}} (got {found!r})")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
