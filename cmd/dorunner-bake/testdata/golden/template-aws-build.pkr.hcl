# Written by `dorunner-bake template packer`. The values of its variables are in dorunner.auto.pkrvars.hcl; credentials come
# from where the cloud's own command line finds them.
#
#   packer init .
#   packer build .

packer {
  required_plugins {
    dorunner = {
      source  = "github.com/dorunner/dorunner"
      version = ">= 0.1.0"
    }
  }
}

variable "spec_file" {
  type        = string
  description = "What goes into the image: a dorunner.yaml."
}

variable "os" {
  type        = string
  description = "The operating system."
}

variable "region" {
  type        = string
  description = "The region to bake in."
}

variable "instance_types" {
  type        = list(string)
  description = "Instance types to bake on, in order."
}

variable "ami_regions" {
  type        = list(string)
  description = "Other regions to copy the AMI to."
}

variable "publish" {
  type        = string
  description = "The SSM parameter that gets the AMI's id."
}

variable "keep" {
  type        = number
  description = "How many images to keep."
}

variable "registry_username" {
  type        = string
  default     = env("DORUNNER_REGISTRY_USERNAME")
  description = "A login that may pull the runner's image. It never reaches the image."
}

variable "registry_password" {
  type        = string
  default     = env("DORUNNER_REGISTRY_PASSWORD")
  sensitive   = true
  description = "The login's password, or where it is: env:NAME, file:/path."
}

source "dorunner-aws" "runner" {
  spec_file         = var.spec_file
  os                = var.os
  region            = var.region
  instance_types    = var.instance_types
  ami_regions       = var.ami_regions
  publish           = var.publish
  keep              = var.keep
  registry_username = var.registry_username
  registry_password = var.registry_password
  test_boot         = true
}

build {
  sources = ["source.dorunner-aws.runner"]

  # Provisioners work in the image before it is sealed, for example:
  #
  #   provisioner "shell" {
  #     inline = ["apt-get install -y chrony"]
  #   }

  post-processor "manifest" {
    output = "packer-manifest.json"
  }
}
