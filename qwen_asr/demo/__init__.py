"""The bundled demo checkpoint. `training/` holds the scripts that made it."""
