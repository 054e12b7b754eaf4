"""Benchmarks of image editors: `python -m ugaf.bench PROTOCOL --data ... --editor ... --out FOLDER`.

A protocol is how one published benchmark is read, measured, judged and averaged: FineEdit-1k (`fineedit`),
ImgEdit-Bench (`imgedit`), GEdit-Bench (`gedit`), REDEdit-Bench (`rededit`). Each item ends in one of three states:
scored, failed (with the reason), or missing (no edited picture). A number that cannot be had is named as missing; none
is ever made up.
"""
