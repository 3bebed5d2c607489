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

variable "resource_group_name" {
  type        = string
  description = "The resource group of the image."
}

variable "location" {
  type        = string
  description = "The location to bake in."
}

variable "vm_sizes" {
  type        = list(string)
  description = "Sizes to bake on, in order."
}

variable "gallery_name" {
  type        = string
  description = "The gallery to publish a version in."
}

variable "gallery_image_name" {
  type        = string
  description = "The image definition in the gallery."
}

variable "replication_regions" {
  type        = list(string)
  description = "Other locations of the version."
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

source "dorunner-azure" "runner" {
  spec_file           = var.spec_file
  os                  = var.os
  resource_group_name = var.resource_group_name
  location            = var.location
  vm_sizes            = var.vm_sizes
  gallery_name        = var.gallery_name
  gallery_image_name  = var.gallery_image_name
  replication_regions = var.replication_regions
  keep                = var.keep
  registry_username   = var.registry_username
  registry_password   = var.registry_password
  test_boot           = true
}

build {
  sources = ["source.dorunner-azure.runner"]

  # Provisioners work in the image before it is sealed, for example:
  #
  #   provisioner "shell" {
  #     inline = ["apt-get install -y chrony"]
  #   }

  post-processor "manifest" {
    output = "packer-manifest.json"
  }
}
