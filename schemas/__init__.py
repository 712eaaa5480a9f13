"""The words: message shapes of two vendors. Structs and data only; no logic beyond decoding."""
