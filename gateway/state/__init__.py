"""What lasts from one request to the next: stored responses, conversations, sealed reasoning. The database is
`gateway/store`.
"""
