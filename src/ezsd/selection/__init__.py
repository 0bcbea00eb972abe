"""Settings that are chosen by leaving base names out: no box of a novel name is read, novel names are texts."""
