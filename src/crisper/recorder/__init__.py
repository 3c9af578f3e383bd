"""The recorder: the lean process beside each worker that alone speaks to the registry."""
