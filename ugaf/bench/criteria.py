"""What the three scores of 1 to 5 mean for each type of edit.

The names are those of ImgEdit-Bench's judge (PKU-YuanGroup/ImgEdit) and of REDEdit-Bench's data set card; what each
asks is put into our own words. A type that neither names is judged by the general three.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Criterion:
    """name: as the benchmark calls it. asks: what the judge has to look at."""

    name: str
    asks: str


Three = tuple[Criterion, Criterion, Criterion]

_COMPLIANCE = Criterion(
    "Prompt Compliance",
    "was exactly what the instruction says done, all of it, to the right thing, and was nothing else touched?",
)
_NATURALNESS = Criterion(
    "Visual Naturalness", "does the edit blend in: no seams, smears, holes, clashing sharpness, colour or style?"
)
_INTEGRITY = Criterion(
    "Physical & Detail Integrity",
    "are light, shadow, reflection, perspective, contact and overlap right, and are the details that were there whole?",
)
_SEAMLESSNESS = Criterion("Visual Seamlessness", _NATURALNESS.asks)

GENERAL: Three = (_COMPLIANCE, _NATURALNESS, _INTEGRITY)
_SEAMLESS: Three = (_COMPLIANCE, _SEAMLESSNESS, Criterion("Physical & Detail Fidelity", _INTEGRITY.asks))
_STYLE: Three = (
    Criterion("Style Fidelity", "does the whole picture have the style that was asked for: palette, strokes, texture?"),
    Criterion(
        "Content Preservation", "are the things of picture 1 all there, with their shapes, places and proportions?"
    ),
    Criterion("Rendering Quality", "is it cleanly made: sharp, coherent, without noise, banding, seams or stains?"),
)

IMGEDIT: dict[str, Three] = {
    "add": (_COMPLIANCE, _NATURALNESS, Criterion("Physical & Detail Coherence", _INTEGRITY.asks)),
    "remove": GENERAL,
    "replace": GENERAL,
    "adjust": _SEAMLESS,
    "style": _STYLE,
    "action": (
        Criterion("Action Fidelity", "is the pose, movement or expression the one that was asked for?"),
        Criterion("Identity Preservation", "is it the same person or animal: face, hair, build, clothes, markings?"),
        Criterion(
            "Visual & Anatomical Coherence", "are limbs, hands, face and joints right, and is the picture clean?"
        ),
    ),
    "extract": (
        Criterion("Object Identity", "is it the very object that was asked for, complete, and nothing besides it?"),
        Criterion(
            "Mask Precision", "is its outline exact and smooth, and the rest pure white without remnants or halo?"
        ),
        Criterion("Visual Quality", "are its details, colours and sharpness those of picture 1?"),
    ),
    "background": (
        Criterion("Instruction Compliance", "is the background the one that was asked for, the foreground untouched?"),
        _SEAMLESSNESS,
        Criterion("Physical Consistency", "do light, perspective and depth of subject and background fit together?"),
    ),
}
"""By edit_type; `compose` (hybrid edits) is judged by the general three."""

REDEDIT: dict[str, Three] = {
    **dict.fromkeys(
        ("add", "remove", "replace", "compose", "extract", "adjust", "color", "lowlevel", "background", "viewpoint"),
        _SEAMLESS,
    ),
    **dict.fromkeys(("beauty", "portrait"), _SEAMLESS),
    "stylize": _STYLE,
    "motion": (
        _COMPLIANCE,
        Criterion(
            "Motion Realism", "is the pose or movement anatomically and physically possible, and does it read so?"
        ),
        _SEAMLESSNESS,
    ),
    "text": (
        Criterion("Text Fidelity", "does it say exactly what was asked for, each character right, in the right place?"),
        Criterion("Visual Consistency", "do font, size, colour, perspective and material fit the lettering around it?"),
        Criterion("Background Preservation", "is everything behind and around the lettering as it was?"),
    ),
}
"""By task."""
