"""What the five lessons share: run directories, manifests, parameters, locks."""
