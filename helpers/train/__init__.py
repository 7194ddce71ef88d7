"""03: checkpoints that a cut-off run goes on from."""
