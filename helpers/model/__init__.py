"""02: loading, hardware choices, memory."""
