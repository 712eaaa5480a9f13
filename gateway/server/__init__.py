"""The server's process: sockets, workers, signals, and HTTP/1.1 connections."""
