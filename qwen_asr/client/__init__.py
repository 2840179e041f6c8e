"""A speaker from afar: audio to `/ws/asr` of a server, its texts back, through every loss of the connection.

::

    async with SpeechClient("wss://localhost:8000/ws/asr", trust=trusted("certs/qwen_asr_cert.pem")) as client:
        await client.send(block)            # float32 or int16, mono, any length; again and again
        await client.finalize()
        async for event in client:          # Partial, Final …; in a task of its own where audio is live
            print(event)

`history` keeps what may have to be sent again, `dialogue` knows the messages; neither does any I/O. `speech_client`
drives both over a WebSocket. `sources` and `screen` are what `qwen-asr stream` reads and shows. Nothing here needs the
model or its libraries.
"""

from qwen_asr.client.events import Connected, Event, Failed, Final, Gap, Lost, Partial, Queued
from qwen_asr.client.speech_client import SpeechClient, trusted

__all__ = [
    "Connected",
    "Event",
    "Failed",
    "Final",
    "Gap",
    "Lost",
    "Partial",
    "Queued",
    "SpeechClient",
    "trusted",
]
