"""The command `amistream`: words in, a request to the daemon (or a job in this process), progress and result out."""
