"""OpenTelemetry: traces and metrics for a collector, where the standard variables ask for them."""
