"""The commands of Amazon's ec2-ami-tools and of euca2ools, with their options, for scripts that call them."""
