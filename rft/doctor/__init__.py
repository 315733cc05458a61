"""What a run is stuck on: stacks, actors, engines, machine, in one bundle with a verdict; the watchdog."""
