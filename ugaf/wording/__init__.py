"""From measurements to words: how an edit of a photograph is chosen, and how it is said in English.

Two halves meet in `asks.Ask`, one edit as data: the task, the objects it touches, the editor's parameters.

*What is asked*: `asks` finds the edits that a photograph allows and their parameters, `sampling` proportions them
over tasks. *How it is said*: `colours`, `places` and `naming` describe an object without knowing its class, so that
nothing false is said of it, and `writer` puts the ask into a sentence of one of three registers with the frames of
`phrases`. A writer that is a language model replaces the second half only.
"""
