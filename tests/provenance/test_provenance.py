"""What files declare of their origin: written by other writers (Pillow, a small C2PA writer), read by ours."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from ugaf.stages.curation.provenance import Provenance

from ugaf.columns import reasons
from ugaf.pipeline import rules
from ugaf.provenance.c2pa import Statement, decoded, statements
from ugaf.provenance.metadata import Metadata, boxes, read
from ugaf.provenance.tags import generator_named, provenance
from ugaf.stage import Row

PIXELS = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8))
RECIPE = "a cat, best quality\nNegative prompt: dog\nSteps: 28, Sampler: DPM++ 2M, CFG scale: 7, Seed: 1, Size: 512x512"
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    "<rdf:Description {attributes}>{elements}</rdf:Description></rdf:RDF></x:xmpmeta>"
)


def outcome(data: bytes) -> Mapping[str, Any]:
    (found,) = Provenance("curation.provenance")([Row("0" * 32, {"image": data})])
    assert isinstance(found, Mapping), found
    assert list(found) == Provenance.schema.names
    return found


def saved(format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    PIXELS.save(out, format, **options)
    return out.getvalue()


def png(**texts: str) -> bytes:
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    return saved("PNG", pnginfo=info)


def xmp(attributes: str = "", elements: str = "") -> bytes:
    return XMP.format(attributes=attributes, elements=elements).encode()


def exif(tags: Mapping[int, Any], comment: bytes = b"") -> Image.Exif:
    block = Image.Exif()
    block.update(tags)
    if comment:
        block.get_ifd(0x8769)[0x9286] = comment
    return block


def cbor(value: Any) -> bytes:
    """RFC 8949, section 3: of what the tests need."""

    def head(major: int, number: int) -> bytes:
        if number < 24:
            return bytes([major << 5 | number])
        size = next(size for size in (1, 2, 4, 8) if number < 1 << (8 * size))
        return bytes([major << 5 | 24 + size.bit_length() - 1]) + number.to_bytes(size, "big")

    if value is None or isinstance(value, bool):
        return {None: b"\xf6", True: b"\xf5", False: b"\xf4"}[value]
    if isinstance(value, float):
        return b"\xfb" + struct.pack(">d", value)
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(cbor, value))
    return head(5, len(value)) + b"".join(cbor(key) + cbor(item) for key, item in value.items())


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body


def labelled(label: str, *contents: bytes) -> bytes:
    description = box(b"jumd", b"c2pa".ljust(16, b"\0") + b"\x03" + label.encode() + b"\0")
    return box(b"jumb", description + b"".join(contents))


def manifest_store(actions: list[dict[str, Any]], claim: dict[str, Any]) -> bytes:
    assertions = labelled("c2pa.assertions", labelled("c2pa.actions.v2", box(b"cbor", cbor({"actions": actions}))))
    manifest = labelled("urn:uuid:1", assertions, labelled("c2pa.claim.v2", box(b"cbor", cbor(claim))))
    return labelled("c2pa", manifest)


GENERATED = manifest_store(
    [
        {
            "action": "c2pa.created",
            "softwareAgent": {"name": "GPT-4o"},
            "digitalSourceType": SOURCE_TYPE + "trainedAlgorithmicMedia",
        }
    ],
    {"claim_generator_info": [{"name": "ChatGPT"}], "alg": "sha256"},
)
CAPTURED = manifest_store(
    [{"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE + "digitalCapture"}],
    {"claim_generator": "Leica M11-P/2.0"},
)


def in_jpeg(store: bytes, piece: int = 60_000) -> bytes:
    """APP11 segments; each repeats the box's header (ISO 19566-5, D.2)."""
    plain = saved("JPEG")
    parts = [store[8:][start : start + piece] for start in range(0, len(store) - 8, piece)]
    segments = b""
    for number, part in enumerate(parts, 1):
        body = b"JP" + struct.pack(">HI", 1, number) + store[:8] + part
        segments += b"\xff\xeb" + struct.pack(">H", len(body) + 2) + body
    return plain[:2] + segments + plain[2:]


def in_png(store: bytes) -> bytes:
    plain = saved("PNG")
    chunk = struct.pack(">I", len(store)) + b"caBX" + store + struct.pack(">I", zlib.crc32(b"caBX" + store))
    return plain[:33] + chunk + plain[33:]


def in_webp(store: bytes) -> bytes:
    return saved("WEBP") + b"C2PA" + struct.pack("<I", len(store)) + store


def in_avif(store: bytes) -> bytes:
    uuid = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
    return box(b"ftyp", b"avif\0\0\0\0") + box(b"uuid", uuid + bytes(4) + b"manifest\0" + bytes(8) + store)


def in_tiff(store: bytes) -> bytes:
    return saved("TIFF", tiffinfo={0xCD41: store})


@pytest.mark.parametrize("embed", [in_jpeg, in_png, in_webp, in_avif, in_tiff])
def test_content_credentials_are_found_in_every_format(embed: Any) -> None:
    found = outcome(embed(GENERATED))
    assert (found["declared_generated"], found["generator"]) == (True, "OpenAI")
    assert found["source_type"] == "trainedAlgorithmicMedia"
    assert "C2PA c2pa.actions.v2: trainedAlgorithmicMedia" in found["generator_evidence"]
    assert found["software"] == "ChatGPT"


def test_a_manifest_in_several_jpeg_segments_is_put_together() -> None:
    assert read(in_jpeg(GENERATED, 100)).c2pa == GENERATED


def test_a_camera_s_content_credentials_are_no_declaration_of_a_generator() -> None:
    found = outcome(in_jpeg(CAPTURED))
    assert (found["declared_generated"], found["generator"]) == (False, None)
    assert (found["source_type"], found["software"]) == ("digitalCapture", "Leica M11-P/2.0")


def test_statements_of_a_store_in_order() -> None:
    label = "c2pa.actions.v2"
    assert statements(GENERATED) == [
        Statement(label, "GPT-4o", SOURCE_TYPE + "trainedAlgorithmicMedia"),
        Statement("c2pa.claim.v2", "ChatGPT"),
    ]


def test_a_generated_ingredient_counts() -> None:
    agent = {"action": "c2pa.placed", "softwareAgent": "Adobe Firefly"}
    found = outcome(in_png(manifest_store([agent], {"claim_generator": "Adobe_Photoshop/25.0"})))
    assert (found["declared_generated"], found["generator"]) == (True, "Adobe Firefly")


@pytest.mark.parametrize(
    ("data", "generator", "evidence"),
    [
        (png(parameters=RECIPE), "Stable Diffusion", "text parameters"),
        (png(prompt='{"3": {"class_type": "KSampler", "inputs": {}}}'), "ComfyUI", "text prompt"),
        (png(workflow='{"last_node_id": 9, "nodes": []}'), "ComfyUI", "text workflow"),
        (png(Software="NovelAI", Title="AI generated image"), "NovelAI", "PNG Software"),
        (png(invokeai_metadata="{}"), "InvokeAI", "text invokeai_metadata"),
        (png(parameters='{"fooocus_scheme": "a1111"}'), "Fooocus", "text parameters"),
        (png(Software="Midjourney"), "Midjourney", "PNG Software"),
        (
            png(Description="a hill --v 6 Job ID: 01234567-89ab-cdef-0123-456789abcdef"),
            "Midjourney",
            "text Description: Job ID",
        ),
        (png(AIGC='{"Label": "1", "ContentProducer": "doubao"}'), "doubao", "text AIGC: Label 1"),
        (
            saved("JPEG", exif=exif({}, b"UNICODE\0" + RECIPE.encode("utf-16-be"))),
            "Stable Diffusion",
            "EXIF UserComment",
        ),
        (
            saved("WEBP", exif=exif({}, b"UNICODE\0" + RECIPE.encode("utf-16-le"))),
            "Stable Diffusion",
            "EXIF UserComment",
        ),
        (saved("JPEG", comment=RECIPE), "Stable Diffusion", "text comment"),
        (saved("JPEG", exif=exif({0x0131: "Adobe Firefly 3"})), "Adobe Firefly", "EXIF Software"),
        (saved("TIFF", tiffinfo={0x0131: "Stable Diffusion XL"}), "Stable Diffusion", "EXIF Software"),
        (
            saved(
                "JPEG", xmp=xmp(f'Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}compositeWithTrainedAlgorithmicMedia"')
            ),
            None,
            "XMP DigitalSourceType: compositeWithTrainedAlgorithmicMedia",
        ),
        (
            saved("WEBP", xmp=xmp(elements=f'<a:DigitalSourceType rdf:resource="{SOURCE_TYPE}algorithmicMedia"/>')),
            None,
            "XMP DigitalSourceType: algorithmicMedia",
        ),
        (
            saved("JPEG", xmp=xmp(elements="<photoshop:Credit>\n Made with Google AI </photoshop:Credit>")),
            "Google AI",
            "XMP Credit: Made with Google AI",
        ),
        (saved("JPEG", xmp=xmp(elements="<e:AISystemUsed>Aurora</e:AISystemUsed>")), "Aurora", "XMP AISystemUsed"),
        (
            saved("JPEG", xmp=xmp(elements="<TC260:AIGC>{&quot;Label&quot;:&quot;1&quot;}</TC260:AIGC>")),
            None,
            "XMP TC260:AIGC: Label 1",
        ),
    ],
)
def test_what_generators_write_is_recognised(data: bytes, generator: str | None, evidence: str) -> None:
    found = outcome(data)
    assert found["declared_generated"] is True
    assert found["generator"] == generator
    assert evidence in found["generator_evidence"]


@pytest.mark.parametrize(
    "data",
    [
        saved("JPEG"),
        saved("PNG"),
        png(Description="a photograph of somebody who uses Midjourney", Comment="Steps: 12 on the stairs"),
        png(parameters="exposure=1/60"),
        png(prompt="a prompt that somebody typed"),
        png(AIGC='{"Label": "0"}'),
        saved("JPEG", exif=exif({0x010E: "Firefly at night", 0x0131: "Adobe Photoshop 25.0"})),
        saved("JPEG", xmp=xmp(f'Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}digitalCapture"')),
        saved("JPEG", xmp=xmp(elements="<x:NotCredit>Made with Google AI</x:NotCredit>")),
        b"",
        b"GIF89a",
    ],
)
def test_photographs_that_declare_nothing(data: bytes) -> None:
    found = outcome(data)
    assert found["declared_generated"] is False
    assert (found["generator"], found["generator_evidence"]) == (None, None)


@pytest.mark.parametrize(
    ("maker", "model", "camera"),
    [
        ("NIKON CORPORATION", "NIKON D850", "NIKON D850"),
        ("Apple", "iPhone 15 Pro", "Apple iPhone 15 Pro"),
        ("Canon", "", "Canon"),
        ("", "", None),
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_camera_and_software(format: str, maker: str, model: str, camera: str | None) -> None:
    tags = {0x010F: maker, 0x0110: model, 0x0131: "Capture One 23"}
    found = outcome(saved(format, exif=exif({tag: text for tag, text in tags.items() if text})))
    assert (found["camera"], found["software"]) == (camera, "Capture One 23")


def test_the_rule_gives_a_reason_that_can_be_read() -> None:
    table = pa.Table.from_pylist([outcome(saved("PNG")), outcome(png(parameters=RECIPE))], Provenance.schema)
    (rule,) = rules.parse(Provenance.keep, Provenance.schema, "curation.provenance")
    assert rules.judge([rule], table).tolist() == [-1, 0]
    assert reasons.text(reasons.Reason.broken(rule, True, "")._asdict()) == "declared_generated True is not False"


def test_iptc_credit_of_a_photoshop_block() -> None:
    credit = b"Made with Google AI"
    record = b"\x1c\x02\x6e" + struct.pack(">H", len(credit)) + credit
    block = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(record)) + record
    plain = saved("JPEG")
    found = outcome(plain[:2] + b"\xff\xed" + struct.pack(">H", len(block) + 2) + block + plain[2:])
    assert found["generator_evidence"] == "IPTC Credit: Made with Google AI"


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.text(max_size=30)
        | st.binary(max_size=30)
        | st.floats(allow_nan=False),
        lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=8), values, max_size=4),
        max_leaves=12,
    )
)
def test_cbor_is_read_as_it_is_written(value: Any) -> None:
    assert decoded(b"cbor", cbor(value)) == value


def test_cbor_of_indefinite_length_and_tags() -> None:
    # RFC 8949, appendix A.
    assert decoded(b"cbor", bytes.fromhex("bf61610161629f0203ffff")) == {"a": 1, "b": [2, 3]}
    assert decoded(b"cbor", bytes.fromhex("7f657374726561646d696e67ff")) == "streaming"
    assert decoded(b"cbor", bytes.fromhex("c074323031332d30332d32315432303a30343a30305a")) == "2013-03-21T20:04:00Z"


@pytest.mark.parametrize(
    "payload",
    [b"\x81" * 100_000, b"\x9b" + b"\xff" * 8, b"\x5b" + b"\xff" * 8, b"\xbf" + b"\x9f" * 1000, b"", b"\x82\x01"],
)
def test_hostile_cbor_is_nothing(payload: bytes) -> None:
    assert decoded(b"cbor", payload) is None


SAMPLES = [
    in_jpeg(GENERATED),
    in_png(GENERATED),
    in_webp(GENERATED),
    in_avif(GENERATED),
    in_tiff(GENERATED),
    png(parameters=RECIPE),
    saved("JPEG", exif=exif({0x010F: "Canon"}, b"UNICODE\0" + RECIPE.encode("utf-16-be")), xmp=xmp("a:Credit='x'")),
]


@settings(max_examples=150)
@given(st.sampled_from(SAMPLES), st.data())
def test_damaged_files_raise_nothing(sample: bytes, data: st.DataObject) -> None:
    cut = sample[: data.draw(st.integers(0, len(sample)))]
    changed = bytearray(cut)
    for _ in range(data.draw(st.integers(0, 8)) if cut else 0):
        changed[data.draw(st.integers(0, len(cut) - 1))] = data.draw(st.integers(0, 255))
    assert isinstance(outcome(bytes(changed))["declared_generated"], bool)


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"II*\0", b"\0\0\0\x0cftyp"]),
)
def test_any_bytes_raise_nothing(tail: bytes, head: bytes) -> None:
    provenance(read(head + tail))
    statements(tail)
    list(boxes(tail))


def test_a_text_that_unpacks_without_end_is_cut_off() -> None:
    body = b"parameters\0\0" + zlib.compress(bytes(50 << 20))
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + bytes(4)
    plain = saved("PNG")
    ((_, text),) = read(plain[:33] + chunk + plain[33:]).texts
    assert len(text) <= 1 << 20


def test_what_is_stored_is_short_and_on_one_line() -> None:
    found = provenance(
        Metadata(exif={"Software": "Midjourney\n" + "x" * 10_000}, xmp="<a:AISystemUsed>y</a:AISystemUsed>" * 90)
    )
    assert len(found.evidence or "") <= 500
    assert len(found.software or "") <= 100
    assert "\n" not in (found.software or "")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("DALL·E 3", "OpenAI"),
        ("dalle", "OpenAI"),
        ("Google C2PA Core Generator Library", None),
        ("Adobe Photoshop 25.0", None),
        ("Microsoft_Responsible_AI/1.0", "Microsoft"),
        ("Windows Photo Editor 10.0", None),
        ("FLUX.1-dev", "FLUX"),
        ("f.lux", None),
    ],
)
def test_names_of_generators(text: str, name: str | None) -> None:
    assert generator_named(text) == name


def test_labels_that_are_no_json_say_nothing() -> None:
    for text in ("[" * 5000, "{", json.dumps({"Label": "1"})[:-1]):
        assert not provenance(Metadata(texts=[("AIGC", text)])).generated
