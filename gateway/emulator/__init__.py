"""A stand-in for Cohere's API that runs on a laptop: same wire, answers by rule instead of by model.

It is an independent oracle of the wire format, so it imports nothing from the rest of the project.
The front door is `gateway.emulator.app.create_emulator`.
"""
