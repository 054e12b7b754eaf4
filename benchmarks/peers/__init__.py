"""The same work in other engines, for benchmarks/curation.py: one small program each.

Every program measures the first photographs of a folder that `benchmarks.photographs` made, with one of the functions
in `kernels.py`, on two CPUs, in the form that the engine's own documents show, and writes Parquet with
the columns of `job.COLUMNS`. None of them is a dependency of ugaf: requirements.txt here says what they need.
"""
