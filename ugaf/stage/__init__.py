"""What the author of a stage or of an engine needs: what both have to do with, here, and in modules beside it engines
by name (`engines`), prompts as files (`prompts`), and the rows of the whole run (`whole`).
"""

from ugaf.base.needs import Needs as Needs
from ugaf.base.needs import together as together
from ugaf.stage.column import Column as Column
from ugaf.stage.column import Range as Range
from ugaf.stage.photo import photo_stage as photo_stage
from ugaf.stage.stage import Failure as Failure
from ugaf.stage.stage import Outcome as Outcome
from ugaf.stage.stage import Row as Row
from ugaf.stage.stage import RowError as RowError
from ugaf.stage.stage import Settings as Settings
from ugaf.stage.stage import Stage as Stage
from ugaf.stage.stage import WholeRunStage as WholeRunStage
from ugaf.stage.stage import operational as operational
from ugaf.stage.whole import RunRows as RunRows
