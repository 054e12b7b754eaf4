"""Model servers: the entries of a pipeline's `models:`, whether the user runs them or the pipeline does.

`ModelServer` is an entry as it stands in the YAML. `ServerLink` is what workers get: where the server is. Servers that
the pipeline starts are kept alive by `ugaf.models.servers.supervisor`.
"""

from ugaf.models.servers.entry import ModelServer as ModelServer
from ugaf.models.servers.entry import reserved as reserved
from ugaf.models.servers.link import ServerLink as ServerLink
from ugaf.models.servers.link import Servers as Servers
