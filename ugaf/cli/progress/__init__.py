"""What a run is doing: on the terminal, in a log, and in two files of the run's folder.

`tracker` turns the engine's counts into rows done of those known, the rate of now and the time left; `shown` writes
that as words; `live` prints it while the run works; `files` keeps `log.txt` and `progress.json`.
"""
