"""The simulator: the real code under a seeded scheduler that owns time and every fault (docs/simulator.md).

Real are `crisper.core`, the engine's writer, recording, circuit, journal, replay, adoption, heartbeat
and sweeper, the memory store, and the courier with its desk and its results. Simulated are hosts,
processes, wires, disks, clocks, the broker, the result backend, and what the tasks do.
"""
