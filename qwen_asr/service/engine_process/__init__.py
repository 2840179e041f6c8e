"""An engine as a process of its own: `process` runs it from its start to its end, `metrics` describes it."""
