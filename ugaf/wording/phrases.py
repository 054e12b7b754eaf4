"""Sentence frames, by task and register (syntax: see `grammar`).

`detailed` names the object with all that is known of it and says what stays; `concise` is one imperative; `user` is how
people type. Fields: {object} "the red cup on the left", {new} "a red cup on the left", {donor} "a blue bowl",
{colour}, {style} and {in_style}, {material}, {text}, {old}, {ink}, {place} (may be empty).
"""

from __future__ import annotations

Frames = tuple[str, ...]

KEEP: Frames = (
    "(keep|leave) (everything else|the rest of the (image|photo|picture)) (unchanged|as it is|untouched)",
    "do not (change|alter|touch) anything else",
    "(nothing else|no other part of the (image|photo|scene)) (should change|may change|changes)",
    "the (rest of the (image|photo)|surroundings) (should|must) stay (the same|unchanged)",
)
"""Second sentence of a detailed instruction of a local edit; true of each task that changes one region."""

ASK: Frames = (
    "can (you|u) {wish}(?| please?| pls?|?)", "could you (maybe|please|) {wish}?", "(please|pls) {wish}",
    "{wish} (please|pls|thanks|thx|)", "hey, (can|could) you {wish}?", "i (want|need|would like) you to {wish}",
    "{wish}(!|)", "(just|) {wish}", "(is it possible to|would it be possible to) {wish}?", "(let's|lets) {wish}",
)  # fmt: skip
"""What a user writes around a wish."""

LOCAL: dict[str, Frames] = {
    "recolor": (
        "(change|set|switch|shift) the colour of {object} to {colour}",
        "(recolour|tint|dye) {object} {colour}",
        "(make|paint|colour|turn) {object} {colour}",
        "give {object} a {colour} colour",
    ),
    "remove": (
        "(remove|delete|erase|take away|take out) {object}",
        "(remove|erase|delete) {object} from the (image|photo|picture|scene)",
        "take {object} out of the (image|photo|picture|scene)",
    ),
    "add": (
        "(add|insert|place|put) {new}",
        "(include|set) {new}",
    ),
    "replace": (
        "(replace|swap|exchange) {object} with {donor}",
        "(swap|switch) {object} for {donor}",
        "put {donor} in place of {object}",
        "substitute {donor} for {object}",
    ),
    "style": (
        "(turn|transform|convert) {object} into {style}",
        "make {object} look like {style}",
        "(render|redraw|redo|show|draw) {object} {in_style}",
        "restyle {object} as {style}",
    ),
    "material": (
        "make {object} look (as if it were|like it is|as though it were) made (of|out of) {material}",
        "(change|switch) the (material|surface) of {object} to {material}",
        "(turn|transform) {object} into {material}",
        "(remake|render) {object} in {material}",
        "give {object} a {material} (surface|texture|finish)",
    ),
}
"""Clauses without capital or full stop: whole sentences are made of them, and so are the halves of a hybrid edit."""

CHATTY: dict[str, Frames] = {
    "recolor": (
        "make {object} {colour}", "i want {object} in {colour}", "{object} should be {colour}",
        "what would {object} look like in {colour}?", "change {object} to {colour}",
    ),
    "remove": (
        "get rid of {object}", "i don't (want|like|need) {object}, (remove it|take it out|delete it)",
        "make {object} (disappear|go away)", "{object} has to go", "lose {object}",
    ),
    "add": (
        "there should be {new}", "i want {new} (here|in this pic|in the picture|in there)", "put {new}",
        "it needs {new}", "can we have {new}?",
    ),
    "replace": (
        "swap {object} for {donor}", "i'd rather have {donor} than {object}", "put {donor} where {object} is",
        "trade {object} for {donor}",
    ),
    "style": (
        "make {object} look like {style}", "i want {object} {in_style}", "{object} but {in_style}",
        "can {object} be {style}?", "turn {object} into {style}",
    ),
    "material": (
        "make {object} out of {material}", "{object} but made of {material}", "i want {object} in {material}",
        "what if {object} was made of {material}?",
    ),
}  # fmt: skip
"""Whole sentences or wishes that only a user would write."""

ADD_NOTE: Frames = (
    "it should (fit|blend) naturally (into|with) the (scene|photo), with matching light",
    "match the light and perspective of the (scene|photo)",
)
REMOVE_NOTE: Frames = (
    "fill the (gap|area|space) with (matching background|what is likely behind it)",
    "(continue|extend) the background (naturally|seamlessly) where it was",
)

STYLES: dict[str, tuple[str, str]] = {
    "pencil sketch": ("a pencil (sketch|drawing)", "(as a pencil sketch|in a pencil sketch style)"),
    "oil painting": ("an oil painting", "(as an oil painting|in an oil painting style)"),
    "watercolour": ("a watercolour (painting|)", "(as a watercolour painting|in a watercolour style)"),
    "cartoon": ("a cartoon", "(as a cartoon|in (a|) cartoon style)"),
    "pixel art": ("pixel art", "(as pixel art|in (a|) pixel art style)"),
    "pointillism": (
        "a pointillist painting",
        "(as a pointillist painting|in a pointillist style|in a style of small dots)",
    ),
}
"""By style: ({style}, {in_style})."""

MATERIALS: dict[str, str] = {
    "wood": "wood", "marble": "(marble|polished marble)", "gold": "(gold|solid gold)",
    "chrome": "(chrome|shiny chrome)", "knitted wool": "(knitted wool|wool knit)",
    "denim": "(denim|blue denim)", "brick": "(brick|red brick)",
    "glass mosaic": "glass mosaic",
}  # fmt: skip

BACKGROUNDS: dict[str, Frames] = {
    "blurred": (
        "blur the background (behind|around) {object}",
        "(keep {object} sharp and blur|blur) everything except {object}",
        "give {object} a (soft, blurred|blurred|soft out-of-focus) background",
    ),
    "greyscale": (
        "(turn|make) everything (except|but) {object} (black and white|grey)",
        "(keep only {object} in colour|keep {object} in colour and make the rest black and white)",
        "(desaturate|take the colour out of) the background (around|behind) {object}",
    ),
    "studio white": (
        "(replace|swap) the background (of|behind|around) {object} with (plain|clean|pure|solid) white",
        "put {object} on a (plain|clean|pure) white background", "(isolate|cut out) {object} on white",
    ),
    "studio gradient": (
        "(replace|swap) the background (of|behind|around) {object} with a (smooth|soft) studio gradient",
        "put {object} in front of a (smooth gradient|studio gradient|gradient studio) backdrop",
    ),
    "sunset sky": (
        "(replace|swap) the background (of|behind|around) {object} with a sunset sky",
        "put {object} in front of a (sunset|sunset sky)", "give {object} a sunset sky (background|as background)",
    ),
    "starry night": (
        "(replace|swap) the background (of|behind|around) {object} with a starry night sky",
        "put {object} (in front of|under) a starry (night|) sky", "give {object} a starry night (sky|) background",
    ),
}  # fmt: skip

BACKGROUND_KEEP: Frames = (
    "(keep|leave) {object} (unchanged|as it is|untouched)",
    "(keep|leave) (the object itself|what is in front) (unchanged|as it is)",
    "(only the background should change|change only the background)",
)
TONE_KEEP: Frames = (
    "(keep|leave) the (content|scene|composition) (unchanged|as it is|the same)",
    "do not (add, move or remove anything|change the content|move or remove anything)",
)

_IT = "(the|this) (image|photo|picture)"
TONES: dict[str, Frames] = {
    "warmer": (f"make {_IT} warmer", f"give {_IT} (a warmer tone|warmer colours)", f"warm up the colours of {_IT}"),
    "cooler": (f"make {_IT} cooler", f"give {_IT} (a cooler, bluer|a cooler) tone", f"cool down the colours of {_IT}"),
    "brighter": (f"(brighten|lighten) {_IT}", f"make {_IT} brighter", f"(increase|raise) the brightness of {_IT}"),
    "darker": (f"darken {_IT}", f"make {_IT} darker", f"(lower|reduce) the brightness of {_IT}"),
    "black and white": (
        f"(turn|make|convert) {_IT} (to|into|) black and white",
        f"(remove the colour from|desaturate) {_IT}",
    ),
    "sepia": (f"(apply|give) {_IT} a sepia tone", f"(tone|turn) {_IT} sepia"),
    "faded film": (
        f"give {_IT} a faded film look", f"make {_IT} look like a faded (film photo|analogue photo|old film photo)",
    ),
    "high contrast": (f"(increase|boost|raise) the contrast of {_IT}", f"give {_IT} (strong|high|more) contrast"),
    "golden hour": (
        f"(light|relight|show) {_IT} (like|as) (at|in) the golden hour", f"give {_IT} (golden hour|warm golden) light",
        f"make {_IT} look (like it was|as if it was) taken at golden hour",
    ),
    "night": (
        f"(turn|change) {_IT} into a night (scene|shot)", f"make {_IT} look (like it was|as if it was) taken at night",
    ),
}  # fmt: skip

RESTORE: dict[str, Frames] = {
    "noise": (
        f"(clean up|reduce) the (noise|grain) in {_IT}", f"(remove|get rid of) the (noise|grain) from {_IT}",
        f"denoise {_IT}",
    ),
    "blur": (
        f"(sharpen|deblur) {_IT}", f"(remove|get rid of) the blur (in|from) {_IT}",
        "make this blurry (image|photo|picture) sharp (again|)",
    ),
    "jpeg": (
        f"(remove|get rid of) the (JPEG|compression) (artifacts|blocks) (in|from) {_IT}",
        f"(clean up|fix) the (JPEG|compression) artifacts in {_IT}",
        f"clean up the blocky compression (in|of) {_IT}",
    ),
    "low resolution": (
        "(restore|bring back) the (lost|fine|missing) detail (in|of) (this low-resolution (image|photo|picture))",
        "(upscale|enhance) this (low-resolution|pixelated|low-res) (image|photo|picture)",
        "make this (low-resolution|low-res) (image|photo|picture) (crisp|sharp and detailed)",
    ),
}  # fmt: skip
RESTORE_NOTE: Frames = (
    "keep (all content|the content|the scene) (unchanged|as it is)",
    "(preserve|keep) (natural texture|fine texture and true colours)",
)

TEXT: dict[str, Frames] = {
    "add": (
        "(add|write|put|place) (the text|the word|) {text} {place} in {ink} (letters|text|)",
        "(write|add) {text} {place} in {ink}",
        "(put|place) {ink} text (reading|that says|saying) {text} {place}",
    ),
    "replace": (
        "(change|edit) the text {old} {place} to {text}",
        "replace (the word|the text|) {old} {place} with {text}",
        "make the text {place} (say|read) {text} instead of {old}",
        "(swap|exchange) {old} {place} for {text}",
    ),
}
TEXT_KEEP: Frames = (
    "keep the (font|lettering), (size and colour|colour and size) (of the text|) (the same|unchanged)",
)

JOIN: Frames = (
    "{first} and {second}", "{first}, and {second}", "{first}, then {second}", "{first} and also {second}",
)  # fmt: skip
JOIN_USER: Frames = (
    "{first} and {second}",
    "{first} + {second}",
    "{first} and then {second}",
    "{first} and also {second}",
)
