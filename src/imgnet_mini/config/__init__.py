"""The run configuration: settings, TOML, recipes."""
