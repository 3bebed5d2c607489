# A bare-metal disk image through Packer: the same bake as `dorunner-bake metal`, with provisioners of your own in it.

packer {
  required_plugins {
    dorunner = {
      source  = "github.com/dorunner/dorunner"
      version = ">= 0.1.0"
    }
  }
}

source "dorunner-metal" "runner" {
  os               = "ubuntu-20.04"
  formats          = ["qcow2"]
  output_directory = "out"
}

build {
  sources = ["source.dorunner-metal.runner"]

  provisioner "shell" {
    inline = ["echo 'baked from ${build.SourceImageName}' > /etc/motd"]
  }

  post-processor "manifest" {
    output = "packer-manifest.json"
  }
}
