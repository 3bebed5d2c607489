# An AMI through Packer: the same bake as `dorunner-bake aws`, with provisioners of your own in it.

packer {
  required_plugins {
    dorunner = {
      source  = "github.com/dorunner/dorunner"
      version = ">= 0.1.0"
    }
  }
}

variable "registry_username" {
  type        = string
  default     = env("DORUNNER_REGISTRY_USERNAME")
  description = "A read-only login that may pull the runner's image. It never reaches the AMI."
}

variable "registry_password" {
  type        = string
  default     = env("DORUNNER_REGISTRY_PASSWORD")
  sensitive   = true
  description = "The login's password."
}

source "dorunner-aws" "runner" {
  os                = "ubuntu-20.04"
  region            = "eu-west-1"
  instance_type     = "t3a.xlarge"
  ami_regions       = ["us-east-1"]
  registry_username = var.registry_username
  registry_password = var.registry_password
  test_boot         = true
  publish           = "/dorunner/ami"
  keep              = 3

  tags = {
    team = "data"
  }
}

build {
  sources = ["source.dorunner-aws.runner"]

  provisioner "shell" {
    inline = ["echo 'baked from ${build.SourceImageName} (${build.SourceImage})' > /etc/motd"]
  }

  post-processor "manifest" {
    output = "packer-manifest.json"
  }
}
