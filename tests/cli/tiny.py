"""Options of runs that are as small as possible."""

TINY = ["--data", "digits", "--train_points", "120", "--num_train_epochs", "2", "--seed", "3", "--use_cpu"]
QUIET = [*TINY, "--no_plots", "--disable_tqdm", "true"]
CONDENSED = ["--condense", "--epochs_per_stage", "1", "--final_ratio", "0.5"]
