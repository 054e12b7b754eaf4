"""The models that stages use, behind small interfaces: a package for each interface, with its implementations.

A stage names the interface that it needs; the configuration names the implementation (`engine: proposals`,
see `ugaf.stage.engines`). Detectors, editors, screeners, verifiers and scorers have an embedded one that needs no GPU,
no weights and no network; that of writers is `ugaf.wording`. `chat` speaks to served models, `servers` runs them,
`judging` is what those have in common that judge pairs.
"""
