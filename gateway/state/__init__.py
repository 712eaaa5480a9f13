"""What is remembered from one request to the next, and for whom. How it is kept is `gateway/store`."""
