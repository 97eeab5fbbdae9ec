"""Writers of one known capture in the layouts of others: independent of the readers, with their own matrices."""
