"""What may be asked of the management API: fields, authority, changes and answers. HTTP and the command line use it."""
