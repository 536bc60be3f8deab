# Makes an instance store-backed AMI with Packer: starts an instance, provisions it, and has amistream bundle it in one
# pass. The instance needs no space for the bundle, and the private key stays out of the AMI.
#
# To change: the variables, in a file of yours (amistream.pkrvars.hcl); the second provisioner, which installs what the AMI
# is for; and the source AMI, which must be instance store-backed too, because the instance runs from it.
#
#   packer init amistream.pkr.hcl
#   packer build -var-file=amistream.pkrvars.hcl amistream.pkr.hcl
#
# The role or the keys of Packer register the AMI; the instance needs a role of its own (instance_profile) that may write
# to the bucket: docs/permissions.md has the policy.

packer {
  required_plugins {
    amazon = {
      version = ">= 1.2.0"
      source  = "github.com/hashicorp/amazon"
    }
  }
}

variable "account_id" {
  type        = string
  description = "Id of your AWS account, 12 digits, without dashes."
}

variable "region" {
  type    = string
  default = "eu-west-1"
}

variable "bucket" {
  type        = string
  description = "Bucket in that region, with ACLs enabled. Without a prefix: Packer registers BUCKET/NAME.manifest.xml."
}

variable "source_ami" {
  type        = string
  description = "Instance store-backed AMI to begin with."
}

variable "instance_profile" {
  type        = string
  description = "Role of the instance, which may write to the bucket."
}

variable "certificate" {
  type        = string
  default     = "cert.pem"
  description = "Your X.509 certificate."
}

variable "private_key" {
  type        = string
  default     = "pk.pem"
  description = "Its private key. Keep it: it opens the bundle."
}

variable "package" {
  type        = string
  default     = "amistream.deb"
  description = "amistream's package for the instance; `make dist` builds it."
}

locals {
  stamp = formatdate("YYYYMMDD-hhmm", timestamp())
}

source "amazon-instance" "web" {
  region               = var.region
  source_ami           = var.source_ami
  instance_type        = "m3.medium"
  iam_instance_profile = var.instance_profile
  ssh_username         = "admin"

  ami_name                = "web-${local.stamp}"
  ami_virtualization_type = "hvm"
  account_id              = var.account_id
  s3_bucket               = var.bucket
  x509_cert_path          = var.certificate
  x509_key_path           = var.private_key

  bundle_prefix = "web-${local.stamp}"

  # One pass from the disk to S3, in place of ec2-bundle-vol. Packer replaces what is in double braces.
  bundle_vol_command = join(" ", [
    "sudo -n chmod 600 {{.KeyPath}} &&",
    "sudo -n amistream bundle / --in-process --no-register --to s3://${var.bucket} --region ${var.region}",
    "--prefix {{.Prefix}} --account {{.AccountId}} --arch {{.Architecture}}",
    "--cert {{.CertPath}} --private-key {{.KeyPath}} --fstab generate --clean all",
  ])

  # The bundle is in S3 already; Packer registers it.
  bundle_upload_command = "true"
}

build {
  sources = ["source.amazon-instance.web"]

  provisioner "file" {
    source      = var.package
    destination = "/tmp/amistream.deb"
  }

  provisioner "shell" {
    inline = [
      "sudo apt-get install -y /tmp/amistream.deb",
      "sudo apt-get update && sudo apt-get install -y nginx",
    ]
  }
}
