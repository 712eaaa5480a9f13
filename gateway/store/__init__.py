"""Storage: responses, their events, conversations. One interface, `store.Store`; caches stand apart."""
