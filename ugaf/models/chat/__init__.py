"""Chat: messages with images in, text or schema-checked values out, from any OpenAI-compatible server.

`open_chat(link)` gives the Chat of an entry of the pipeline's `models:`; `client` speaks to servers, on the official
`openai` client (extra `chat`).
"""

from ugaf.models.chat.open import BATCH_ROWS as BATCH_ROWS
from ugaf.models.chat.open import FRAGMENTS as FRAGMENTS
from ugaf.models.chat.open import chat_needs as chat_needs
from ugaf.models.chat.open import open_chat as open_chat
from ugaf.models.chat.types import Answer as Answer
from ugaf.models.chat.types import Chat as Chat
from ugaf.models.chat.types import ChatRequest as ChatRequest
from ugaf.models.chat.types import Message as Message
from ugaf.models.chat.types import Picture as Picture
from ugaf.models.chat.types import Sampling as Sampling
from ugaf.models.chat.types import Token as Token
