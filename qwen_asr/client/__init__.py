"""A client for `/ws/asr` that reconnects: audio in, text events out. Needs no model libraries.

::

    async with SpeechClient("wss://localhost:8000/ws/asr", trust=trusted("certs/qwen_asr_cert.pem")) as client:
        await client.send(block)            # float32 or int16, mono, any length; again and again
        await client.finalize()
        async for event in client:          # Partial, Final …; in a separate task if the audio is live
            print(event)

`replay_buffer` keeps the audio that may have to be sent again, and `protocol` builds and parses messages; neither does
I/O. `speech_client` runs both over WebSockets.
"""

from qwen_asr.client.events import (
    Aligned,
    Connected,
    Event,
    Failed,
    Final,
    Gap,
    Loading,
    Lost,
    Partial,
    Queued,
    Warned,
    Word,
)
from qwen_asr.client.limits import ClientLimits
from qwen_asr.client.speech_client import SpeechClient, trusted

__all__ = [
    "Aligned",
    "ClientLimits",
    "Connected",
    "Event",
    "Failed",
    "Final",
    "Gap",
    "Loading",
    "Lost",
    "Partial",
    "Queued",
    "SpeechClient",
    "Warned",
    "Word",
    "trusted",
]
