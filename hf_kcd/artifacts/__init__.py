"""What lies on disk: atomic files, the identity of a data set, the results and the folder of a run, cards and figures."""
