"""Files on disk: atomic writing, the base of masks and soft labels, results and folder of a run, cards, figures."""
