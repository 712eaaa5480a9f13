"""The console: the page at `/console`, for the people who run the gateway and for those who hold a key.

`pages.py` serves its files, `sign_in.py` its sessions. All data comes from the management API.
"""
