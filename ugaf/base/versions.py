"""Versions that a run's columns and files depend on."""

from __future__ import annotations

from importlib import metadata

PACKAGES = (
    "numpy", "opencv-python-headless", "opencv-python", "pillow", "pyarrow", "ray", "scikit-image", "scipy",
    "faiss-cpu",
    "openai", "torch", "transformers", "diffusers", "peft", "lpips", "ultralytics", "vllm", "rapidocr-onnxruntime",
)  # fmt: skip


def package_versions() -> dict[str, str]:
    """The installed ones; OpenCV goes by one of two names, and what was built from source may have none."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
