"""The machine at hand: memory, threads, emulation."""
