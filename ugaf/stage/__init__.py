"""What the author of a stage or of an engine needs: what both have to do with, here, and in modules beside it engines
by name (`engines`), prompts as files (`prompts`), and the rows of the whole run (`whole`).
"""

from ugaf.stage.stage import Failure as Failure
from ugaf.stage.stage import Outcome as Outcome
from ugaf.stage.stage import Range as Range
from ugaf.stage.stage import Row as Row
from ugaf.stage.stage import RowError as RowError
from ugaf.stage.stage import Settings as Settings
from ugaf.stage.stage import Stage as Stage
from ugaf.stage.stage import operational as operational
