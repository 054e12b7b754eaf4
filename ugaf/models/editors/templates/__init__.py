"""The embedded editor: edits by algorithm, an operation a file."""

from ugaf.models.editors.templates.editor import OPERATIONS as OPERATIONS
from ugaf.models.editors.templates.editor import TASKS as TASKS
from ugaf.models.editors.templates.editor import UNBOUNDED as UNBOUNDED
from ugaf.models.editors.templates.editor import TemplateEditor as TemplateEditor
