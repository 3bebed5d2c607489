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

variable "formats" {
  type        = list(string)
  description = "Formats of the disk image."
}

variable "platform" {
  type        = string
  description = "Which first boot is baked in."
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

source "dorunner-metal" "runner" {
  spec_file         = var.spec_file
  os                = var.os
  formats           = var.formats
  platform          = var.platform
  registry_username = var.registry_username
  registry_password = var.registry_password
}

build {
  sources = ["source.dorunner-metal.runner"]

  # Provisioners work in the image before it is sealed, for example:
  #
  #   provisioner "shell" {
  #     inline = ["apt-get install -y chrony"]
  #   }

  post-processor "manifest" {
    output = "packer-manifest.json"
  }
}
