"""The pocket world: scenes of pictograms, and the training of their teacher."""
