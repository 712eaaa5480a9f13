"""What is kept between requests: responses, their events, conversations. One interface, `store.Store`."""
