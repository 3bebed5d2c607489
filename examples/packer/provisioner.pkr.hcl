# Makes a machine a runner's that another builder has: here one that exists already, reached over SSH. With amazon-ebs,
# proxmox, vsphere-iso or qemu the build block is the same.

packer {
  required_plugins {
    dorunner = {
      source  = "github.com/dorunner/dorunner"
      version = ">= 0.1.0"
    }
  }
}

variable "host" {
  type    = string
  default = "192.0.2.10"
}

variable "port" {
  type    = number
  default = 22
}

variable "key" {
  type        = string
  default     = null
  description = "A private key that logs in; without one, the SSH agent is asked."
}

source "null" "machine" {
  ssh_host             = var.host
  ssh_port             = var.port
  ssh_username         = "ubuntu"
  ssh_private_key_file = var.key
  ssh_agent_auth       = var.key == null
}

build {
  sources = ["source.null.machine"]

  provisioner "dorunner" {
    os               = "ubuntu-20.04"
    output_directory = "out"
  }
}
