"""What calls cost, and the record of every one."""
