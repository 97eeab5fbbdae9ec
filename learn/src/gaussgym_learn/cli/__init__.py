"""The subcommands of `gaussgym-learn`, one file each."""
