"""The commands of Amazon's ec2-ami-tools and of euca2ools, for scripts that call them: old words, amistream's parts."""
