"""Commands of ``gaussgym-recon``, one file each."""
