"""The models that stages use, behind small interfaces: detectors, editors, scorers.

A stage names the interface that it needs; the configuration names the implementation (`engine: proposals`). Each
interface has an embedded implementation that needs no GPU, no weights and no network.
"""
