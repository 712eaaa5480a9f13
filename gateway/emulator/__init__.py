"""A stand-in for Cohere's API that runs on a laptop: Cohere's formats and rules, but rules instead of a model.

It is an independent check of the gateway, so it imports nothing from the rest of the project. Its ASGI application
comes from `gateway.emulator.app.create_emulator`.
"""
