"""The command line `hf-kcd`: one file a command, each as thin as the library allows."""
