"""Which rows of a run show the same photograph: search, verification and links.

`search` finds pairs of rows whose hashes agree somewhere, in time that grows with the number of rows; `alignment` looks
at each pair closely; `embeddings` finds pairs by a model's vectors instead; `links` bounds what is stored; `grid` takes
all that through a run, block against block, within a memory budget.
"""
