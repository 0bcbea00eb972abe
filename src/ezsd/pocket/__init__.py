"""The pocket data set: scenes of pictograms, and the training of its teacher."""
