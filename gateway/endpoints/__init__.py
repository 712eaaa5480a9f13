"""Where routes lead: answers whole, streamed or in parts, uploads, sockets, the native API, what is remembered."""
